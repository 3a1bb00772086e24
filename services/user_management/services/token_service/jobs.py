"""Two periodic jobs: one repeats token refreshes whose outcome is unknown, the other refreshes access tokens before
they expire."""

import asyncio
import math
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.exceptions import ApplicationError
from services.user_management.queries import due_refresh as queries
from services.user_management.queries.due_refresh import DuePosition, DueRefresh, DueStep
from services.user_management.services.slice_time import SliceTime, StartSlice
from services.user_management.services.token_service.answers import DEFAULT_TTL_SECONDS
from services.user_management.services.token_service.refresh import TokenRefresher

CONCURRENCY: Final = 16
"""The most refreshes that a slice makes at once; the limit of calls to one provider may be lower."""
BATCH: Final = 64
SLICE_PERIOD_SECONDS: Final = 10.0
"""The time from the beginning of one slice of `refresh_due` to that of the next."""
REFRESH_PERIOD_SECONDS: Final = 900.0
"""The time from the beginning of one run of `refresh_due` to that of the next. With a longer period, tokens that live
an hour would be refreshed by readers, since the next run would come too late, and then once more by that run."""

log = structlog.get_logger(__name__)


class RefreshJobs:
    """The work of the jobs `sweep` and `refresh_due`, in slices (a few seconds of work each)."""

    def __init__(
        self,
        *,
        database: Database,
        refresher: TokenRefresher,
        start_slice: StartSlice,
        spread_seconds: float,
    ) -> None:
        """Set up the jobs. `spread_seconds` is the time over which a run of `refresh_due` spreads its refreshes; 0
        means as fast as possible."""
        self._database = database
        self._refresher = refresher
        self._start_slice = start_slice
        self._spread_seconds = spread_seconds
        self._horizon_seconds = REFRESH_PERIOD_SECONDS + spread_seconds + DEFAULT_TTL_SECONDS

    async def sweep(self, _actor: Principal, _cursor: Any = None) -> None:
        """Slice: repeat the refreshes whose outcome is unknown, for example because the process was killed: each once,
        until all were tried or the time is over.

        Refreshes that cannot be tried now, because calls to their provider are held back, are found again by the next
        slice."""
        time = self._start_slice()
        after = UUID(int=0)
        while time.may_begin():
            async with self._database.reading() as connection:
                found = await queries.unsettled(connection, after=after, limit=BATCH)
            if not found:
                return
            await self._refresh_batch(found, time)
            after = found[-1].integration_id

    async def refresh_due(self, _actor: Principal, cursor: Any = None) -> JSONObject | None:
        """Slice: refresh the access tokens that would have too little life left for readers before the next run reaches
        them, those that expire soonest first.

        Returns the cursor for the next slice: the position of the last token whose refresh was begun, and about how
        many tokens a slice may refresh, so that no provider gets all calls of a run at once. Returns None when no token
        is left.
        """
        time = self._start_slice()
        share, position = _read_cursor(cursor) if cursor is not None else (await self._share(), DuePosition())
        begun = 0
        while begun < share and time.may_begin():
            steps = await self._due(position)
            if not steps:
                return None
            taken = await self._refresh_batch([step.refresh for step in steps], time)
            begun += taken
            if taken:
                position = steps[taken - 1].position
        return {"share": share, "after": [position.due_at.isoformat(), str(position.integration_id)]}

    async def _share(self) -> int:
        async with self._database.reading() as connection:
            due = await queries.count_due(connection, within_seconds=self._horizon_seconds)
        slices = max(1.0, self._spread_seconds / SLICE_PERIOD_SECONDS)
        return max(BATCH, math.ceil(due / slices))

    async def _due(self, position: DuePosition) -> list[DueStep]:
        async with self._database.reading() as connection:
            return await queries.due(
                connection,
                within_seconds=self._horizon_seconds,
                period_seconds=REFRESH_PERIOD_SECONDS,
                after=position,
                limit=BATCH,
            )

    async def _refresh_batch(self, batch: list[DueRefresh], time: SliceTime) -> int:
        """Refresh the tokens of `batch` in order, several at once. Returns how many were begun before the time was
        over."""
        waiting = iter(batch)
        begun = 0

        async def work() -> None:
            nonlocal begun
            while time.may_begin() and (item := next(waiting, None)) is not None:
                begun += 1
                await self._refresh_one(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(batch))):
                group.create_task(work())
        return begun

    async def _refresh_one(self, item: DueRefresh) -> None:
        """Refresh one integration. An ApplicationError, as for a missing key, is logged and not raised, so that the
        other integrations are refreshed."""
        try:
            result = await self._refresher.refresh(item.integration_id, item.token_version)
        except ApplicationError as error:
            log.warning("refresh.skipped", integration_id=str(item.integration_id), reason=error.code)
        else:
            log.info("refresh.attempted", integration_id=str(item.integration_id), outcome=result.outcome.value)


def _read_cursor(cursor: Any) -> tuple[int, DuePosition]:
    due_at, integration_id = cursor["after"]
    return int(cursor["share"]), DuePosition(datetime.fromisoformat(due_at), UUID(integration_id))
