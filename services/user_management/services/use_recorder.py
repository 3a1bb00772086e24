"""Records when something (a key, a user) was last used. A failure to record it never fails the request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.clock import Clock
from services.user_management.core.principal import system
from services.user_management.database import DatabaseError, describe_database_error, is_unavailable
from services.user_management.observability import UNRECORDED_USES
from services.user_management.unit_of_work import UnitOfWorkFactory

MAX_KEYS: Final = 10_000
"""How many keys a recorder remembers as written. At this number it forgets all of them. That costs one statement more
per key and changes nothing else, since the statement compares with the time in the row."""
TIMEOUT_SECONDS: Final = 1.0
"""For how long recording may delay the answer to a request."""
PAUSE_SECONDS: Final = 10.0
"""For how long nothing is written after a write has failed, so that few requests wait for a busy database."""

RECORDER: Final = system("use_recorder")

log = structlog.get_logger(__name__)


class UseRecorder:
    """Records uses of things of one kind, each named by a key, such as a user's id. Of the uses of one key, a process
    writes at most one per period to Postgres; it ignores the others without a statement."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        thing: str,
        period_seconds: float,
        write: Callable[[AsyncConnection, str], Awaitable[None]],
    ) -> None:
        """Set up a recorder. `thing` is the name, in log and metric, of what the keys identify ("user"); `write` stores
        that a key is in use now."""
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._thing = thing
        self._period_seconds = period_seconds
        self._write = write
        self._written: dict[str, float] = {}
        self._resumes_at = 0.0
        self._unrecorded = UNRECORDED_USES.labels(thing)

    async def record(self, key: str) -> None:
        """Write that `key` is in use, unless this process has done so within the period.

        If Postgres does not store that within a second, this counts the use as unrecorded, raises nothing, and for the
        next ten seconds writes nothing and counts all uses as unrecorded."""
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
        except DatabaseError as error:
            self._written.pop(key, None)
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        self._unrecorded.inc()
        now = self._clock.monotonic()
        if now >= self._resumes_at:
            # A statement that Postgres refuses is a defect of ours, but not of the request.
            level = logging.WARNING if is_unavailable(error) else logging.ERROR
            reason = describe_database_error(error) or type(error).__name__
            log.log(level, "use.not_recorded", thing=self._thing, reason=reason)
        self._resumes_at = now + PAUSE_SECONDS
