"""What a worker child process holds: one event loop and one container, for its whole life."""

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from services.user_management.container import Container

Result = TypeVar("Result")

SETTLE_SECONDS = 20.0
"""For refreshes that outlive their slice; with the slice's own 20 s still below Celery's hard limit of 60 s."""


class WorkerRuntime:
    """Runs coroutines of tasks. Pools are bound to the loop, so the loop lives as long as they do."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._container: Container | None = None

    def start(self, build: Callable[[], Container]) -> None:
        """Build and start the container; called once in each worker child. Raises StartupError."""
        self._runner = asyncio.Runner()
        self._container = build()
        self._runner.run(self._container.start())

    def run(self, use_case: Callable[[Container], Coroutine[Any, Any, Result]]) -> Result:
        """Run one use case. A Runner shares one context between its runs: each gets a fresh one, so that nothing set by
        one task is seen by the next."""
        if self._runner is None or self._container is None:
            raise RuntimeError("the worker runtime was not started")
        return self._runner.run(self._settled(use_case, self._container), context=Context())

    @staticmethod
    async def _settled(use_case: Callable[[Container], Coroutine[Any, Any, Result]], container: Container) -> Result:
        """Between two runs the loop stands still: no refresh may be left half way, with the only copy of an answer."""
        try:
            return await use_case(container)
        finally:
            await container.tokens.refresher.drain(SETTLE_SECONDS)

    def stop(self) -> None:
        """Close the container and the loop."""
        if self._runner is not None and self._container is not None:
            self._runner.run(self._container.stop())
            self._runner.close()
        self._runner = self._container = None


stopping = multiprocessing.Event()
"""Set by the worker's parent when it is told to end; its children, which inherit it, get no signal themselves."""

runtime = WorkerRuntime()
"""Process-wide, since Celery imports tasks by name and hands them nothing but their arguments."""
