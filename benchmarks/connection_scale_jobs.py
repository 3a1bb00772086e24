"""Times the queries by which periodic jobs find due refreshes and claim due revocations. They run in this process, as
the jobs run them, and not in a worker, which would then refresh and revoke tokens and so change the rows that the next
query finds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from itertools import cycle
from types import TracebackType
from typing import Final, Self

from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.deployment import Deployment
from benchmarks.errors import BenchmarkError
from services.user_management.database import sqlalchemy_url
from services.user_management.queries import due_refresh, token_revocation
from services.user_management.queries.due_refresh import DuePosition, DueStep
from services.user_management.services.integration_service import revocations
from services.user_management.services.token_service import jobs
from services.user_management.services.token_service.answers import DEFAULT_TTL_SECONDS

_WITHIN_SECONDS: Final = jobs.REFRESH_PERIOD_SECONDS + 600.0 + DEFAULT_TTL_SECONDS
"""How far ahead, in seconds, a run of the refresh job looks for expiring tokens, with the default spread."""
DUE_AT_ONCE: Final = jobs.BATCH // 2
"""Size of a page; the due integrations among a thousand are enough to fill one."""
_MORE_THAN_ALL: Final = 10_000_000


class JobCaller(AbstractContextManager["JobCaller"]):
    """Runs the queries on one database connection that stays open, with the service's own role."""

    def __init__(self, deployment: Deployment) -> None:
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(sqlalchemy_url(deployment.environment["DATABASE_URL"]), pool_size=1)
        self._pages: Iterator[DuePosition] = iter(())

    def __enter__(self) -> Self:
        self._pages = cycle(self._runner.run(self._due_pages()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()

    def find_due_refreshes(self) -> tuple[float, int]:
        """Fetch the next page of the integrations that the refresh job walks through, and after the last full page the
        first one again; return the milliseconds and how many there are on the page.

        The short page at the end is never fetched: among a thousand integrations it would come before every second
        page, and leave its rows in the processor's caches.
        """
        position = next(self._pages)

        async def run() -> int:
            return len(await self._due(position, DUE_AT_ONCE))

        return self._timed(run)

    def claim_due_revocations(self) -> tuple[float, int]:
        """Claim the due revocations; return the milliseconds and how many were claimed."""
        return self._timed(self._claim_due_revocations)

    def _timed(self, job: Callable[[], Awaitable[int]]) -> tuple[float, int]:
        async def run() -> tuple[float, int]:
            started = time.perf_counter()
            rows = await job()
            return 1e3 * (time.perf_counter() - started), rows

        return self._runner.run(run())

    async def _due_pages(self) -> list[DuePosition]:
        """List the positions after which the full pages begin. Raises BenchmarkError if no page is full."""
        steps = await self._due(DuePosition(), _MORE_THAN_ALL)
        starts = [DuePosition(), *(step.position for step in steps[DUE_AT_ONCE - 1 :: DUE_AT_ONCE])]
        full = starts[: len(steps) // DUE_AT_ONCE]
        if not full:
            raise BenchmarkError(f"only {len(steps)} integrations are due, and a page has {DUE_AT_ONCE}")
        return full

    async def _due(self, after: DuePosition, limit: int) -> list[DueStep]:
        async with self._engine.connect() as connection:
            return await due_refresh.due(
                connection,
                within_seconds=_WITHIN_SECONDS,
                period_seconds=jobs.REFRESH_PERIOD_SECONDS,
                after=after,
                limit=limit,
            )

    async def _claim_due_revocations(self) -> int:
        async with self._engine.begin() as connection:
            claimed = await token_revocation.claim_due(
                connection, limit=revocations.BATCH, lease_seconds=revocations.LEASE_SECONDS
            )
        return len(claimed)
