"""Daily upkeep of the tables: makes partitions for the coming months and removes rows that are no longer needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.principal import Principal
from services.user_management.queries import job as job_queries
from services.user_management.unit_of_work import UnitOfWorkFactory

PARTITIONS_AHEAD: Final = 3
"""For how many coming months partitions are made."""

log = structlog.get_logger(__name__)


class Prune(Protocol):
    """The type of a query that removes a feature's old rows. Each query decides which of them are no longer needed."""

    async def __call__(self, connection: AsyncConnection, *, before: datetime) -> None:
        """Remove the rows that are older than `before` and no longer needed, for example finished deliveries."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """How long a feature keeps its rows, and the query that removes them.

    Each feature declares its pruning beside the service that writes the rows; the container hands all to the upkeep.
    """

    kept: timedelta
    prune: Prune


class TableUpkeep:
    """Makes partitions ahead of time and removes old rows; it runs as a periodic job."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, prunings: Sequence[Pruning]) -> None:
        self._unit_of_work = unit_of_work
        self._prunings = prunings

    async def maintain_tables(self, actor: Principal, _cursor: Any) -> None:
        """Slice: make the partitions of the coming months, then remove the old rows of each feature, each feature's in
        one transaction. All is done in one slice, so this returns no cursor."""
        async with self._unit_of_work(actor) as uow:
            made = await job_queries.ensure_log_partitions(uow.connection, months_ahead=PARTITIONS_AHEAD)
            now = await job_queries.database_now(uow.connection)
        if made:
            log.info("partitions.created", count=made)
        for pruning in self._prunings:
            async with self._unit_of_work(actor) as uow:
                await pruning.prune(uow.connection, before=now - pruning.kept)
