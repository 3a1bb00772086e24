"""The group of services that send events to others: the outbox (events that wait to be relayed) and outgoing
webhooks."""

from dataclasses import dataclass

from services.user_management.container.keys import KeyServices
from services.user_management.container.resources import Resources
from services.user_management.services.outbox_service import OutboxPolicy, OutboxService
from services.user_management.services.webhook_delivery_service import WebhookDeliveryService
from services.user_management.services.webhook_subscription_service import WebhookSubscriptionService


@dataclass(frozen=True, kw_only=True)
class EventServices:
    """Services that relay events, manage webhook subscriptions, and send events to the subscribers."""

    outbox: OutboxService
    subscriptions: WebhookSubscriptionService
    deliveries: WebhookDeliveryService


def build_events(resources: Resources, *, keys: KeyServices) -> EventServices:
    """Build the services for events."""
    settings = resources.settings
    admins = frozenset(settings.admin.user_ids)
    return EventServices(
        outbox=OutboxService(
            database=resources.database,
            unit_of_work=resources.unit_of_work,
            redis=resources.redis,
            policy=OutboxPolicy(
                source=settings.public_url,
                stream=settings.redis.stream,
                stream_length=settings.redis.stream_length,
                channel=settings.redis.channel,
                admins=admins,
            ),
            start_slice=resources.start_slice,
        ),
        subscriptions=WebhookSubscriptionService(
            database=resources.database,
            unit_of_work=resources.unit_of_work,
            targets=resources.webhook_targets,
            vault=keys.vault,
            signer=resources.signer,
            source=settings.public_url,
            admins=admins,
        ),
        deliveries=WebhookDeliveryService(
            unit_of_work=resources.unit_of_work,
            sender=resources.webhook_sender,
            vault=keys.vault,
            clock=resources.clock,
            start_slice=resources.start_slice,
            admins=admins,
        ),
    )
