"""The task that checks whether integrations (users' linked accounts) and providers still work."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.services.integration_health_service import CHECK_PERIOD_SECONDS
from services.user_management.tasks.runtime import runtime


@shared_task(name=JobName.CHECK_INTEGRATIONS.value)
def check_integrations() -> None:
    """Every 15 minutes, in slices of a few seconds, check whether integrations (users' linked accounts) and providers
    still work, and whether integrations have the scopes that they need."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.CHECK_INTEGRATIONS,
            period_seconds=CHECK_PERIOD_SECONDS,
            work=container.integrations.health.check,
        )
    )
