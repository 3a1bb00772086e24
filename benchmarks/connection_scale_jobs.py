"""Times the database queries of the periodic jobs. They run in this process, as the jobs run them, and not in a worker,
which would then refresh and revoke tokens and so change the rows that the next query finds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.deployment import Deployment
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


class JobCaller(AbstractContextManager["JobCaller"]):
    """Runs the queries on one database connection that stays open, with the service's own role."""

    def __init__(self, deployment: Deployment) -> None:
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(sqlalchemy_url(deployment.environment["DATABASE_URL"]), pool_size=1)
        self._position = DuePosition()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()

    def find_due_refreshes(self) -> tuple[float, int]:
        """Fetch the next page of the integrations that the refresh job walks through; return the milliseconds and how
        many there are on the page.

        If that page is not full, start again at the first page and time that one instead: pages of different length
        cannot be compared.
        """
        milliseconds, found = self._timed(self._find_due_refreshes)
        if found < DUE_AT_ONCE:
            self._position = DuePosition()
            milliseconds, found = self._timed(self._find_due_refreshes)
        return milliseconds, found

    def claim_due_revocations(self) -> tuple[float, int]:
        """Claim the due revocations; return the milliseconds and how many were claimed."""
        return self._timed(self._claim_due_revocations)

    def _timed(self, job: Callable[[], Awaitable[int]]) -> tuple[float, int]:
        async def run() -> tuple[float, int]:
            started = time.perf_counter()
            rows = await job()
            return 1e3 * (time.perf_counter() - started), rows

        return self._runner.run(run())

    async def _find_due_refreshes(self) -> int:
        found = await self._due_page()
        self._position = found[-1].position if found else DuePosition()
        return len(found)

    async def _due_page(self) -> list[DueStep]:
        async with self._engine.connect() as connection:
            return await due_refresh.due(
                connection,
                within_seconds=_WITHIN_SECONDS,
                period_seconds=jobs.REFRESH_PERIOD_SECONDS,
                after=self._position,
                limit=DUE_AT_ONCE,
            )

    async def _claim_due_revocations(self) -> int:
        async with self._engine.begin() as connection:
            claimed = await token_revocation.claim_due(
                connection, limit=revocations.BATCH, lease_seconds=revocations.LEASE_SECONDS
            )
        return len(claimed)
