"""The task that encrypts all stored secrets anew under the vault's active key version."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.tasks.runtime import runtime

PERIOD_SECONDS = 60.0


@shared_task(name=JobName.REWRAP_SECRETS.value)
def rewrap_secrets() -> None:
    """Every minute, in slices of a few seconds, encrypt anew every secret that is under another key version than the
    active one."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.REWRAP_SECRETS, period_seconds=PERIOD_SECONDS, work=container.keys.rotation.rewrap
        )
    )
