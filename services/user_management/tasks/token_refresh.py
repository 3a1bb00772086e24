"""Tasks for tokens at the providers: they settle refreshes whose outcome is unknown, refresh tokens that run out soon,
and revoke tokens that nobody needs any more."""

from celery import shared_task

from services.user_management.enums import JobName
from services.user_management.services.token_service import REFRESH_PERIOD_SECONDS
from services.user_management.tasks.runtime import runtime

SWEEP_PERIOD_SECONDS = 10.0
REVOKE_PERIOD_SECONDS = 2.0


@shared_task(name=JobName.SWEEP_LEASES.value)
def sweep_leases() -> None:
    """Every 10 s, repeat the refreshes whose outcome is unknown, such as those whose lease ran out before an answer was
    stored."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.SWEEP_LEASES, period_seconds=SWEEP_PERIOD_SECONDS, work=container.tokens.refresh_jobs.sweep
        )
    )


@shared_task(name=JobName.REFRESH_DUE_TOKENS.value)
def refresh_due_tokens() -> None:
    """Every quarter of an hour, in slices of a few seconds, refresh the access tokens that run out soon."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.REFRESH_DUE_TOKENS,
            period_seconds=REFRESH_PERIOD_SECONDS,
            work=container.tokens.refresh_jobs.refresh_due,
        )
    )


@shared_task(name=JobName.REVOKE_TOKENS.value)
def revoke_tokens() -> None:
    """Every 2 s, carry out the revocations that are due: revoke tokens that nobody needs any more, such as those of
    disconnected integrations, at their providers."""
    runtime.run(
        lambda container: container.jobs.runner.run(
            JobName.REVOKE_TOKENS,
            period_seconds=REVOKE_PERIOD_SECONDS,
            work=container.integrations.revocations.revoke_due,
        )
    )
