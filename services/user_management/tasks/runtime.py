"""The runtime of a worker child process: one event loop and one container, for its whole life; and the event that tells
all children to stop."""

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from services.user_management.container import Container

Result = TypeVar("Result")

SETTLE_SECONDS = 20.0
"""Seconds that a task waits at its end for refreshes that go on after its slice (the few seconds of its job's work).
With the slice's own limit of 20 s, this is still below Celery's hard limit of 60 s."""


class WorkerRuntime:
    """Runs coroutines of tasks. Connection pools are bound to the event loop, so the loop lives as long as they do."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._container: Container | None = None

    def start(self, build: Callable[[], Container]) -> None:
        """Build and start the container; called once in each worker child. Raises StartupError."""
        self._runner = asyncio.Runner()
        self._container = build()
        self._runner.run(self._container.start())

    def run(self, use_case: Callable[[Container], Coroutine[Any, Any, Result]]) -> Result:
        """Run one use case, then wait for refreshes under way, and return the result. The use case gets a new context,
        so that no task sees what the one before has set: an asyncio.Runner would share one context between its runs.
        Raises RuntimeError before `start`."""
        if self._runner is None or self._container is None:
            raise RuntimeError("the worker runtime was not started")
        return self._runner.run(self._settled(use_case, self._container), context=Context())

    @staticmethod
    async def _settled(use_case: Callable[[Container], Coroutine[Any, Any, Result]], container: Container) -> Result:
        """Run one use case, then wait for the refreshes under way. Between two runs the event loop does not run, and no
        refresh may be interrupted while it holds the only copy of a token answer."""
        try:
            return await use_case(container)
        finally:
            await container.settle(SETTLE_SECONDS)

    def stop(self) -> None:
        """Close the container and the loop; do nothing before `start`."""
        if self._runner is not None and self._container is not None:
            self._runner.run(self._container.stop())
            self._runner.close()
        self._runner = self._container = None


stopping = multiprocessing.Event()
"""Event that the worker's parent process sets when it is asked to shut down. Its children inherit the event, since they
get no signal themselves."""

runtime = WorkerRuntime()
"""Runtime of this process. It is process-wide, since Celery imports tasks by name and hands them nothing but their
arguments."""
