"""Upkeep of the tables."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.tasks.runtime import runtime

DAY_SECONDS = 86_400.0


@shared_task(name=JobName.MAINTAIN_TABLES.value)
def maintain_tables() -> None:
    """Once a day: partitions of the coming months, old job runs."""
    runtime.run(
        lambda container: container.jobs.run(
            JobName.MAINTAIN_TABLES, period_seconds=DAY_SECONDS, work=container.jobs.maintain_tables
        )
    )
