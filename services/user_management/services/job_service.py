"""Periodic jobs. Each slot runs once, however many processes tick; a job works in slices of about five seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.ids import uuid7
from services.user_management.core.principal import Principal, system
from services.user_management.enums import JobName
from services.user_management.logging_config import summarize_error
from services.user_management.queries import job as job_queries
from services.user_management.queries.job import Slot
from services.user_management.services.table_upkeep import Pruning
from services.user_management.unit_of_work import UnitOfWorkFactory

SLICE_TIMEOUT_SECONDS: Final = 20.0
"""When a slice is cut off: later than its five seconds and the 8 s of its last provider call, and before the slot's
lease ends (25 s)."""
RUN_PRUNING: Final = Pruning(timedelta(days=2), job_queries.prune)

Slice = Callable[[Principal, Any], Awaitable[Any]]
"""A job's work: takes the job as its actor and a cursor (None at first), and returns the next cursor; None when the
slot is done."""


class JobService:
    """Claims the slots of periodic jobs and runs them, one slice per call."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def run(self, job: JobName, *, period_seconds: float, work: Slice) -> bool:
        """Run a slice of the current slot of `job`, if it is free, and return whether anything was run.

        An error of `work` is recorded with the slot and raised. The next tick tries the same slot again, up to three
        times in all; where slots are as short as ticks, it takes the next slot.
        """
        actor = system(job.value)
        with use_context(RequestContext(request_id=f"{job.value}-{uuid7()}", actor=actor)):
            async with self._unit_of_work(actor) as uow:
                slot = await job_queries.claim(uow.connection, job=job.value, period_seconds=period_seconds)
            if slot is None:
                return False
            try:
                async with asyncio.timeout(SLICE_TIMEOUT_SECONDS):
                    cursor = await work(actor, slot.cursor)
            except Exception as error:
                await self._record_failure(actor, slot, error)
                raise
            async with self._unit_of_work(actor) as uow:
                if cursor is None:
                    await job_queries.finish(uow.connection, slot)
                else:
                    await job_queries.hand_on(uow.connection, slot, cursor)
            return True

    async def _record_failure(self, actor: Principal, slot: Slot, error: Exception) -> None:
        async with self._unit_of_work(actor) as uow:
            await job_queries.fail(uow.connection, slot, summarize_error(error))
