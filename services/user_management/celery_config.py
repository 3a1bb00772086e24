"""The configuration of Celery, which carries nothing but ticks: messages that make a worker look whether a job is due.
Postgres knows what is due, so a lost tick only delays a job until the next one, and a doubled tick changes nothing."""

from typing import Any, Final

from services.user_management.enums import JobName
from services.user_management.settings import Settings

TICKS: Final[dict[JobName, float]] = {
    JobName.RELAY_OUTBOX: 2.0,
    JobName.SWEEP_LEASES: 10.0,
    JobName.REFRESH_DUE_TOKENS: 10.0,
    JobName.RETRY_WEBHOOKS: 2.0,
    JobName.REVOKE_TOKENS: 2.0,
    JobName.DELIVER_WEBHOOKS: 2.0,
    JobName.ERASE_USERS: 60.0,
    JobName.RECONCILE_CLERK: 10.0,
    JobName.REWRAP_SECRETS: 10.0,
    JobName.CHECK_INTEGRATIONS: 10.0,
    JobName.MAINTAIN_TABLES: 600.0,
}
"""Seconds between two ticks of a job. A tick asks for the job's current slot (one due run, which one worker claims);
the task defines how long a slot is."""
HARD_TIME_LIMIT_SECONDS: Final = 60
"""After how long Celery kills a task (SIGKILL), even in the middle of a call. No healthy task takes so long: it works
for one slice, which ends after five seconds and is cut off after twenty, and then waits up to twenty for refreshes."""


def broker_url(redis_url: str) -> str:
    """Return a Redis URL in the form that Celery understands, which has `redis+socket` for unix sockets."""
    return redis_url.replace("unix://", "redis+socket://", 1) if redis_url.startswith("unix://") else redis_url


def celery_options(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the Celery application."""
    return {
        "broker_url": broker_url(settings.redis.url.get_secret_value()),
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {"visibility_timeout": 300, "socket_timeout": 5, "socket_connect_timeout": 2},
        "beat_scheduler": "celery.beat:Scheduler",  # in memory: slots in Postgres remember what ran
        "beat_max_loop_interval": 2,
        "beat_schedule": {
            job.value: {"task": job.value, "schedule": seconds, "options": {"expires": seconds}}
            for job, seconds in TICKS.items()
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_time_limit": HARD_TIME_LIMIT_SECONDS,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "timezone": "UTC",
    }
