"""Sets up the worker and beat processes: beat sends the tasks of the periodic jobs, workers run them."""

import asyncio
import sys
from typing import Any

import structlog
from celery import Celery, signals

from services.user_management.celery_config import celery_options
from services.user_management.container import Container
from services.user_management.core.core_dumps import forbid_core_dumps
from services.user_management.exceptions import StartupError
from services.user_management.logging_config import configure_logging
from services.user_management.settings import get_settings
from services.user_management.tasks.runtime import runtime, stopping

log = structlog.get_logger(__name__)


def create_celery_app() -> Celery:
    """Forbid core dumps and build the Celery application. Exit with status 2 if the configuration cannot be used."""
    # Done here, before any secret is read; the worker's children inherit the setting.
    forbid_core_dumps()
    try:
        options = celery_options(get_settings())
    except StartupError as error:
        print(f"user-management: {error}", file=sys.stderr)  # noqa: T201 - for the person who starts it
        sys.exit(2)
    application = Celery(
        "user-management",
        include=[
            "services.user_management.tasks.data_cleanup",
            "services.user_management.tasks.integration_health",
            "services.user_management.tasks.key_rotation",
            "services.user_management.tasks.outbox",
            "services.user_management.tasks.token_refresh",
            "services.user_management.tasks.upstream",
        ],
    )
    application.conf.update(options)
    return application


app = create_celery_app()


@signals.setup_logging.connect
def set_up_logging(**_: Any) -> None:
    """Set up the service's own logging instead of Celery's."""
    settings = get_settings()
    configure_logging(level=settings.log.level, json_lines=settings.log_json_lines)


@signals.worker_init.connect
def prove_startup(**_: Any) -> None:
    """Start and stop a container once, before any child is forked, and exit with status 2 if it must not start
    (StartupError): Celery would for ever replace a child that cannot start by another one."""

    async def start_and_stop() -> None:
        container = Container(get_settings())
        try:
            await container.start()
        finally:
            await container.stop()

    try:
        asyncio.run(start_and_stop())
    except StartupError as error:
        print(f"user-management: {error}", file=sys.stderr)  # noqa: T201 - for the person who starts it
        sys.exit(2)


@signals.worker_process_init.connect
def start_runtime(**_: Any) -> None:
    """Build and start the container of a worker's child after the fork, so that no two processes share a connection."""
    runtime.start(lambda: Container(get_settings(), is_stopping=stopping.is_set))


@signals.worker_shutting_down.connect
def announce_stop(**_: Any) -> None:
    """Let the worker's children begin no more work. Provider calls under way may still take their 8 seconds."""
    stopping.set()


@signals.worker_process_shutdown.connect
def stop_runtime(**_: Any) -> None:
    """Close what the container of a worker's child has open."""
    runtime.stop()


@signals.worker_ready.connect
def announce_worker(**_: Any) -> None:
    """Log that the worker is ready: the development stack and tests wait for this line."""
    log.info("worker.started")


@signals.beat_init.connect
def announce_beat(**_: Any) -> None:
    """Log that beat is ready: the development stack and tests wait for this line."""
    log.info("beat.started")
