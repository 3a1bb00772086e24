"""When a key was last used, to the minute."""

import asyncio
from typing import Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.database import is_unavailable
from services.user_management.queries import service_client as queries
from services.user_management.unit_of_work import UnitOfWorkFactory

PERIOD_SECONDS: Final = 60.0
MAX_KEYS: Final = 10_000
"""Remembered per process. Beyond it all are forgotten, which costs a statement per key: the row has the last word."""
TIMEOUT_SECONDS: Final = 1.0
"""How long an answer that is ready may be held up."""

log = structlog.get_logger(__name__)


class KeyUsage:
    """Writes `last_used_at` at most once a minute per key and process; in between a call is one look into a dict."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._written: dict[str, float] = {}

    async def record(self, key_id: str) -> None:
        """An authenticated call used the key. Postgres being away is logged, since the call itself went well."""
        now = self._clock.monotonic()
        written = self._written.get(key_id)
        if written is not None and now - written < PERIOD_SECONDS:
            return
        if len(self._written) >= MAX_KEYS:
            self._written.clear()
        # Before the first await, so that of calls at the same moment one writes.
        self._written[key_id] = now
        await self._write(key_id)

    async def _write(self, key_id: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._unit_of_work() as uow:
                await queries.record_use(uow.connection, key_id)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("service_key.use_not_recorded", key_id=key_id, reason=type(error).__name__)
