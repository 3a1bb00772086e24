"""Tasks for the upkeep of the tables and for the erasure of deleted users."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.tasks.runtime import runtime

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0


@shared_task(name=JobName.MAINTAIN_TABLES.value)
def maintain_tables() -> None:
    """Once a day, create the partitions of the coming months and delete the rows that no feature needs any more."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.MAINTAIN_TABLES, period_seconds=DAY_SECONDS, work=container.jobs.upkeep.maintain_tables
        )
    )


@shared_task(name=JobName.ERASE_USERS.value)
def erase_users() -> None:
    """Every hour, in slices of a few seconds, erase deleted users whose hold-back (the days in which they can be
    restored) is over."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.ERASE_USERS, period_seconds=HOUR_SECONDS, work=container.users.erasure.erase_due
        )
    )
