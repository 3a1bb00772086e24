"""Tells whether Postgres and Redis answer: liveness reports what was last seen, readiness asks them now."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

from services.user_management.database import Database
from services.user_management.redis_client import RedisClient, ping
from services.user_management.schemas.health import ComponentState, HealthResponse, ReadyResponse

PROBE_SECONDS: Final = 2.0
READY_BUDGET_SECONDS: Final = 0.8

Phase = Literal["starting", "serving", "draining"]


class HealthService:
    """Keeps the states of Postgres and Redis that this process saw last.

    `phase` returns the phase of the process; `is_rate_limiter_degraded` tells whether rate limits are counted in this
    process alone instead of in Redis.
    """

    def __init__(
        self,
        database: Database,
        redis: RedisClient,
        *,
        phase: Callable[[], Phase],
        is_rate_limiter_degraded: Callable[[], bool],
    ) -> None:
        self._database = database
        self._redis = redis
        self._phase = phase
        self._is_rate_limiter_degraded = is_rate_limiter_degraded
        self._database_state: ComponentState = "unknown"
        self._redis_state: ComponentState = "unknown"

    def health(self) -> HealthResponse:
        """Report the states that `probe` last saw, and how rate limits are counted at the moment.

        This awaits no answer of Postgres or Redis, so it works while they are stuck.
        """
        return HealthResponse(
            database=self._database_state,
            redis=self._redis_state,
            rate_limiter="in_process" if self._is_rate_limiter_degraded() else "shared",
        )

    async def ready(self) -> ReadyResponse:
        """Ask Postgres and Redis now, and report within a second whether this process can serve.

        The status is `ready` only if the process is in the phase `serving` and Postgres answers. A Redis that does not
        answer is shown as `degraded` and leaves the process ready.
        """
        await self.probe()
        database_ok = self._database_state == "ok"
        status: Literal["ready", "starting", "draining", "unavailable"] = "ready"
        if (phase := self._phase()) != "serving":
            status = phase
        elif not database_ok:
            status = "unavailable"
        return ReadyResponse(
            status=status,
            database=self._database_state,
            redis="ok" if self._redis_state == "ok" else "degraded",
        )

    async def probe(self) -> None:
        """Ask Postgres (for at most 0.8 s) and Redis (within the time limits of its client) at the same time, and
        remember their states."""
        database_ok, redis_ok = await asyncio.gather(
            self._database.ping(timeout_seconds=READY_BUDGET_SECONDS), ping(self._redis)
        )
        self._database_state = "ok" if database_ok else "unavailable"
        self._redis_state = "ok" if redis_ok else "unavailable"

    async def watch(self) -> None:
        """Probe again and again, with pauses of two seconds, until the process stops and cancels the task."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_SECONDS)
