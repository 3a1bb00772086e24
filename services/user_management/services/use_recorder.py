"""Records when something was last used. This is worth knowing, but no request may fail because of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.clock import Clock
from services.user_management.core.principal import system
from services.user_management.database import is_unavailable
from services.user_management.observability import UNRECORDED_USES
from services.user_management.unit_of_work import UnitOfWorkFactory

MAX_KEYS: Final = 10_000
"""How many keys a process remembers. Beyond this number it forgets all, which costs one statement per key, since the
statement itself checks the row's own time."""
TIMEOUT_SECONDS: Final = 1.0
"""How long recording may hold up an answer that is ready."""
PAUSE_SECONDS: Final = 10.0
"""How long nothing is written after a write has failed, so that few requests wait for a busy database."""

RECORDER: Final = system("use_recorder")

log = structlog.get_logger(__name__)


class UseRecorder:
    """Writes that a key was used, at most once per period and process; otherwise a call only looks into a dict."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        thing: str,
        period_seconds: float,
        write: Callable[[AsyncConnection, str], Awaitable[None]],
    ) -> None:
        """Set up a recorder. `thing` names what keys identify, in log and metric; `write` stores the use of a key."""
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._thing = thing
        self._period_seconds = period_seconds
        self._write = write
        self._written: dict[str, float] = {}
        self._resumes_at = 0.0
        self._unrecorded = UNRECORDED_USES.labels(thing)

    async def record(self, key: str) -> None:
        """Write the use of `key` if that is due. If Postgres does not take it in time, count that and raise nothing."""
        now = self._clock.monotonic()
        written = self._written.get(key)
        if written is not None and now - written < self._period_seconds:
            return
        if now < self._resumes_at:
            self._unrecorded.inc()
            return
        if len(self._written) >= MAX_KEYS:
            self._written.clear()
        # Noted before the first await, so that only one of several uses at the same moment writes.
        self._written[key] = now
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._unit_of_work(RECORDER) as uow:
                await self._write(uow.connection, key)
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._written.pop(key, None)
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        self._unrecorded.inc()
        now = self._clock.monotonic()
        if now >= self._resumes_at:
            log.warning("use.not_recorded", thing=self._thing, reason=type(error).__name__)
        self._resumes_at = now + PAUSE_SECONDS
