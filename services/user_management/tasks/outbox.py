"""Tasks that send events to others: from the outbox (the table in which events wait) to Redis, and as webhooks to the
subscriptions."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.tasks.runtime import runtime

RELAY_PERIOD_SECONDS = 2.0
DELIVER_PERIOD_SECONDS = 2.0


@shared_task(name=JobName.RELAY_OUTBOX.value)
def relay_outbox() -> None:
    """Every 2 s, send the events of the outbox to Redis, and queue the webhooks for them."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.RELAY_OUTBOX, period_seconds=RELAY_PERIOD_SECONDS, work=container.events.outbox.relay
        )
    )


@shared_task(name=JobName.DELIVER_WEBHOOKS.value)
def deliver_webhooks() -> None:
    """Every 2 s, send the webhook deliveries that are due."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.DELIVER_WEBHOOKS,
            period_seconds=DELIVER_PERIOD_SECONDS,
            work=container.events.deliveries.deliver_due,
        )
    )
