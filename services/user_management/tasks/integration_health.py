"""The task that checks integrations and providers."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.services.integration_health_service import CHECK_PERIOD_SECONDS
from services.user_management.tasks.runtime import runtime


@shared_task(name=JobName.CHECK_INTEGRATIONS.value)
def check_integrations() -> None:
    """Every 15 minutes, in slices of a few seconds, check integrations (users' linked accounts) and providers."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.CHECK_INTEGRATIONS,
            period_seconds=CHECK_PERIOD_SECONDS,
            work=container.integrations.health.check,
        )
    )
