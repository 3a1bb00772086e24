"""Tasks that retry events from the identity provider that could not be applied yet, and compare our users with its
users."""

from functools import partial

from celery import shared_task

from services.user_management.container.reconciliation import reconcile_slice
from services.user_management.enums import JobName
from services.user_management.tasks.runtime import runtime

RETRY_PERIOD_SECONDS = 2.0
RECONCILE_PERIOD_SECONDS = 86_400.0


@shared_task(name=JobName.RETRY_WEBHOOKS.value)
def retry_webhooks() -> None:
    """Every 2 s, try again to apply the received events that could not be applied yet and whose next attempt is due."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.RETRY_WEBHOOKS, period_seconds=RETRY_PERIOD_SECONDS, work=container.clerk.webhooks.retry_due
        )
    )


@shared_task(name=JobName.RECONCILE_CLERK.value)
def reconcile_clerk() -> None:
    """Once a day, in slices of a few seconds, compare all users with Clerk and repair what differs. Without
    CLERK_SECRET_KEY this only logs a warning."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.RECONCILE_CLERK,
            period_seconds=RECONCILE_PERIOD_SECONDS,
            # Only the worker that has claimed the slot sets up the SDK, not every tick.
            work=partial(reconcile_slice, container),
        )
    )
