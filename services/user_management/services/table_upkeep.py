"""Daily upkeep of the tables: makes partitions for the coming months and removes rows that are no longer needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.principal import Principal
from services.user_management.database import DatabaseError
from services.user_management.queries import job as job_queries
from services.user_management.services.slice_time import StartSlice
from services.user_management.unit_of_work import UnitOfWorkFactory

PARTITIONS_AHEAD: Final = 3
"""For how many coming months partitions are made."""
BATCH: Final = 1000
"""How many rows one transaction removes at most."""

log = structlog.get_logger(__name__)


class Prune(Protocol):
    """The type of a query that removes a feature's old rows. Each query decides which of them are no longer needed."""

    async def __call__(self, connection: AsyncConnection, *, before: datetime, limit: int) -> int:
        """Remove up to `limit` rows that are older than `before` and no longer needed, for example finished deliveries.
        Returns how many were removed; fewer than `limit` means that none are left."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """How long a feature keeps its rows, and the query that removes them.

    Each feature declares its pruning beside the service that writes the rows; the container hands all to the upkeep.
    """

    kept: timedelta
    prune: Prune


@dataclass(kw_only=True, eq=False)
class TableUpkeep:
    """Makes partitions ahead of time and removes old rows; it runs as a periodic job."""

    unit_of_work: UnitOfWorkFactory
    prunings: Sequence[Pruning]
    start_slice: StartSlice

    async def maintain_tables(self, actor: Principal, cursor: int | None) -> int | None:
        """Slice (about five seconds of the job): make the partitions of the coming months, then remove the old rows of
        one feature after another, a thousand per transaction.

        The cursor is the number of the feature to go on with: None as `cursor` means the first one, and None as result
        means that all are done. If the rows of a feature cannot be removed, the error is logged and the feature is
        skipped until the next run."""
        time = self.start_slice()
        async with self.unit_of_work(actor) as uow:
            made = await job_queries.ensure_log_partitions(uow.connection, months_ahead=PARTITIONS_AHEAD)
            now = await job_queries.database_now(uow.connection)
        if made:
            log.info("partitions.created", count=made)
        number = cursor or 0
        while number < len(self.prunings):
            if not time.may_begin():
                return number
            if not await self._remove_some(actor, self.prunings[number], now):
                number += 1
        return None

    async def _remove_some(self, actor: Principal, pruning: Pruning, now: datetime) -> bool:
        """Remove some old rows of one feature; return whether there may be more of them to remove."""
        try:
            async with self.unit_of_work(actor) as uow:
                removed = await pruning.prune(uow.connection, before=now - pruning.kept, limit=BATCH)
        except DatabaseError:
            log.exception("pruning.failed", queries=pruning.prune.__module__)
            return False
        return removed == BATCH
