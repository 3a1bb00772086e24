"""Periodic jobs that settle refreshes of unknown outcome, and renew tokens before anybody needs them."""

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
"""How many refreshes a slice makes at once; a provider's own cap may be lower."""
BATCH: Final = 64
SLICE_PERIOD_SECONDS: Final = 10.0
"""How often the job gets a slice (its tick)."""
REFRESH_PERIOD_SECONDS: Final = 900.0
"""How often a run begins, a quarter of an hour. With tokens that live an hour, a longer period would leave the last
refresh before the end to a reader, and then renew what that reader has just renewed."""

log = structlog.get_logger(__name__)


class RefreshJobs:
    """The slices of the refresh jobs. Their state is in the rows: a token that was refreshed is no longer found."""

    def __init__(
        self,
        *,
        database: Database,
        refresher: TokenRefresher,
        start_slice: StartSlice,
        spread_seconds: float,
    ) -> None:
        """`spread_seconds`: over how long the refreshes of a run are spread; 0: as fast as they go."""
        self._database = database
        self._refresher = refresher
        self._start_slice = start_slice
        self._spread_seconds = spread_seconds
        self._horizon_seconds = REFRESH_PERIOD_SECONDS + spread_seconds + DEFAULT_TTL_SECONDS

    async def sweep(self, _actor: Principal, _cursor: Any = None) -> None:
        """Slice: try every refresh again whose outcome is unknown, such as one whose process was killed.

        A slice tries each of them once. Those that cannot be tried now, because their provider is held back, are found
        again by the next slice.
        """
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
        """Slice: renew the access tokens that would become too short-lived for readers before the next run reaches
        them, those that run out soonest first.

        The cursor holds the position of the walk, and how many tokens a slice may renew, so that no provider gets all
        calls of a run at once. Returns None when the walk is over.
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
        """Refresh in order, several at once. Returns how many were begun before the time was over."""
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
        """Refresh one integration. An error, such as a missing key, is only logged, so that the others go on."""
        try:
            result = await self._refresher.refresh(item.integration_id, item.token_version)
        except ApplicationError as error:
            log.warning("refresh.skipped", integration_id=str(item.integration_id), reason=error.code)
        else:
            log.info("refresh.attempted", integration_id=str(item.integration_id), outcome=result.outcome.value)


def _read_cursor(cursor: Any) -> tuple[int, DuePosition]:
    due_at, integration_id = cursor["after"]
    return int(cursor["share"]), DuePosition(datetime.fromisoformat(due_at), UUID(integration_id))
