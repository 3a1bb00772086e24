"""The periodic side of refreshing: unknown outcomes are settled, tokens are renewed before anybody needs them."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.database import Database
from services.user_management.exceptions import ApplicationError
from services.user_management.queries import token_refresh as queries
from services.user_management.queries.token_refresh import DueRefresh
from services.user_management.services.token_service.refresh import TokenRefresher

SLICE_SECONDS: Final = 5.0
CONCURRENCY: Final = 16
"""Refreshes of one slice at once; a provider's own cap may be lower."""
BATCH: Final = 64
SLICE_PERIOD_SECONDS: Final = 10.0
"""How often the hourly job gets a slice (its tick)."""
REFRESH_PERIOD_SECONDS: Final = 3600.0
_HORIZON_SECONDS: Final = REFRESH_PERIOD_SECONDS + 300.0
"""Whatever runs out before the next hourly run, and the default life a reader expects, is renewed in this one."""

Find = Callable[[], Awaitable[list[DueRefresh]]]

log = structlog.get_logger(__name__)


class RefreshJobs:
    """Slices for the slot runner. Their state is in the rows: what was refreshed is no longer found."""

    def __init__(
        self,
        *,
        database: Database,
        refresher: TokenRefresher,
        clock: Clock,
        is_stopping: Callable[[], bool],
        spread_seconds: float,
    ) -> None:
        """`spread_seconds`: over how long the refreshes of an hour are spread; 0: as fast as they go."""
        self._database = database
        self._refresher = refresher
        self._clock = clock
        self._is_stopping = is_stopping
        self._spread_seconds = spread_seconds

    async def sweep(self, _cursor: Any = None) -> None:
        """Slice: try again every refresh whose outcome nobody knows, such as one whose process was killed."""
        await self._refresh_all(self._unsettled)

    async def refresh_due(self, cursor: Any = None) -> int | None:
        """Slice: renew access tokens that run out before the next hourly run, the next one first.

        The cursor is how many a slice may renew, so that no provider meets all of an hour at once; None when none are
        left.
        """
        quota = int(cursor) if cursor is not None else await self._quota()
        return None if await self._refresh_all(self._due, at_most=quota) else quota

    async def _quota(self) -> int:
        async with self._database.reading() as connection:
            due = await queries.count_due(connection, within_seconds=_HORIZON_SECONDS)
        slices = max(1.0, self._spread_seconds / SLICE_PERIOD_SECONDS)
        return max(BATCH, math.ceil(due / slices))

    async def _unsettled(self) -> list[DueRefresh]:
        async with self._database.reading() as connection:
            return await queries.unsettled(connection, limit=BATCH)

    async def _due(self) -> list[DueRefresh]:
        async with self._database.reading() as connection:
            return await queries.due(
                connection, within_seconds=_HORIZON_SECONDS, period_seconds=REFRESH_PERIOD_SECONDS, limit=BATCH
            )

    async def _refresh_all(self, find: Find, *, at_most: float = math.inf) -> bool:
        """Refresh what `find` gives until it gives nothing new (True), or the slice's time or share is over (False)."""
        ends = self._clock.monotonic() + SLICE_SECONDS
        tried: set[DueRefresh] = set()
        while self._clock.monotonic() < ends and len(tried) < at_most and not self._is_stopping():
            found = [item for item in await find() if item not in tried]
            if not found:
                return True
            tried.update(found)
            await self._refresh_batch(found, ends)
        return False

    async def _refresh_batch(self, batch: list[DueRefresh], ends: float) -> None:
        waiting = iter(batch)

        async def work() -> None:
            for item in waiting:
                if self._clock.monotonic() > ends or self._is_stopping():
                    return
                await self._refresh_one(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(batch))):
                group.create_task(work())

    async def _refresh_one(self, item: DueRefresh) -> None:
        """A connection that cannot be refreshed, as under a missing key, costs the others nothing."""
        try:
            result = await self._refresher.refresh(item.integration_id, item.token_version)
        except ApplicationError as error:
            log.warning("refresh.skipped", integration_id=str(item.integration_id), reason=error.code)
        else:
            log.info("refresh.attempted", integration_id=str(item.integration_id), outcome=result.outcome.value)
