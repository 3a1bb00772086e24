"""Steps (parts of a transaction) that turn an event into deliveries: one for each webhook subscription that wants it,
or one for a certain subscription."""

from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

from services.user_management.core.ids import uuid7
from services.user_management.queries import webhook_delivery as delivery_queries
from services.user_management.queries import webhook_subscription as subscription_queries
from services.user_management.queries.webhook_delivery import NewDelivery
from services.user_management.queries.webhook_subscription import Listener, ShownSubscription
from services.user_management.services.cloud_events import CloudEvent, ordered, structured
from services.user_management.unit_of_work import UnitOfWork

_ABOUT_INTEGRATIONS: Final = "integration."


def is_wanted(listener: Listener, event: CloudEvent) -> bool:
    """Tell whether a subscription gets an event: its types include the event's (as `user.created` or `user.*`; a
    subscription without types gets all), and its owner may know of it. A service without `admin` may know of users, and
    of integrations with the providers that it has a grant for."""
    event_type = event["type"]
    named = not listener.event_types or not {event_type, f"{event_type.partition('.')[0]}.*"}.isdisjoint(
        listener.event_types
    )
    if not named or listener.providers is None or not event_type.startswith(_ABOUT_INTEGRATIONS):
        return named
    return event["data"].get("provider") in listener.providers


async def fan_out(uow: UnitOfWork, events: Iterable[CloudEvent], *, admins: Collection[str]) -> int:
    """Step: number and store the deliveries of these events, in the order given. Returns how many were stored.

    A subscription gets none if it is disabled or its owner may not receive events at this moment; `admins` are the ids
    of the users who are administrators. The events must be marked as published in this same transaction; otherwise a
    crash between the two loses or doubles deliveries.
    """
    told = list(events)
    deliveries: list[NewDelivery] = []
    numbers: dict[UUID, int] = {}
    for listener in await subscription_queries.lock_listeners(uow.connection, admins=admins):
        wanted = [event for event in told if is_wanted(listener, event)]
        deliveries += [
            _delivery(listener.id, event, number)
            for number, event in enumerate(wanted, start=listener.last_sequence + 1)
        ]
        if wanted:
            numbers[listener.id] = listener.last_sequence + len(wanted)
    if deliveries:
        await delivery_queries.insert(uow.connection, deliveries)
        await subscription_queries.set_last_sequence(uow.connection, numbers)
    return len(deliveries)


async def deliver_alone(uow: UnitOfWork, subscription: ShownSubscription, event: CloudEvent) -> UUID:
    """Step: queue an event for one subscription, even if its types do not include the event's. The subscription must be
    locked. Returns the id of the delivery."""
    number = subscription.last_sequence + 1
    delivery = _delivery(subscription.id, event, number)
    await delivery_queries.insert(uow.connection, [delivery])
    await subscription_queries.set_last_sequence(uow.connection, {subscription.id: number})
    return delivery.id


def _delivery(subscription_id: UUID, event: CloudEvent, number: int) -> NewDelivery:
    return NewDelivery(
        id=uuid7(),
        subscription_id=subscription_id,
        event_id=UUID(event["id"]),
        event_type=event["type"],
        sequence=number,
        # The number is in the body, which is signed; headers are not.
        body=structured(event, deliverysequence=ordered(number)),
    )
