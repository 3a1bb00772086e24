"""From one event to a delivery for each subscription that wants it: steps of whoever has an event to tell."""

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

_ABOUT_CONNECTIONS: Final = "integration."


def is_wanted(listener: Listener, event: CloudEvent) -> bool:
    """Whether a subscription names the event's type and may hear of it: a service that does not administer hears of
    users, and of integrations with the providers that it has a grant for."""
    event_type = event["type"]
    named = not listener.event_types or not {event_type, f"{event_type.partition('.')[0]}.*"}.isdisjoint(
        listener.event_types
    )
    if not named or listener.providers is None or not event_type.startswith(_ABOUT_CONNECTIONS):
        return named
    return event["data"].get("provider") in listener.providers


async def fan_out(uow: UnitOfWork, events: Iterable[CloudEvent], *, admins: Collection[str]) -> int:
    """Step: number and store what each subscription is to be told, in the order given; how many deliveries.

    Its owner's present standing decides; `admins` are the users who administer.
    The transaction that marks an event as told must be this one, or a crash between the two loses or doubles it.
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
    """Step: tell one subscription, which is locked, whatever it asked for; id of the delivery."""
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
        # In the body, where it is signed; a header would not be.
        body=structured(event, deliverysequence=ordered(number)),
    )
