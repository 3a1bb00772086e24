"""Runs periodic jobs. A slot is one due run of a job: the run of one period, by the database's clock. However many
processes ask for a slot, one at a time works on it, in slices of about five seconds, until it is done."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
"""The age at which a slice is cancelled: more than its five seconds and the 8 s of its last provider call together, and
less than the lease of its slot (25 s)."""
RUN_PRUNING: Final = Pruning(timedelta(days=2), job_queries.prune)

Slice = Callable[[Principal, Any], Awaitable[Any]]
"""The work of a job for one slice. It takes the job as the actor and a cursor, which is None at first; it returns the
cursor for the next slice, or None when the slot is done."""


@dataclass(kw_only=True, eq=False)
class JobService:
    """Claims the slots of periodic jobs for this process and runs them, one slice per call."""

    unit_of_work: UnitOfWorkFactory

    async def run(self, job: JobName, *, period_seconds: float, work: Slice) -> bool:
        """Run a slice of the current slot of `job` and return True; return False if there is nothing to run: the slot
        is done or has failed three times, or another worker is at work on the job.

        An error of `work`, TimeoutError after 20 s included, is recorded with the slot and raised. A later call tries
        the slice again, three times in all, as long as the slot is the current one.
        """
        actor = system(job.value)
        with use_context(RequestContext(request_id=f"{job.value}-{uuid7()}", actor=actor)):
            async with self.unit_of_work(actor) as uow:
                slot = await job_queries.claim(uow.connection, job=job.value, period_seconds=period_seconds)
            if slot is None:
                return False
            try:
                async with asyncio.timeout(SLICE_TIMEOUT_SECONDS):
                    cursor = await work(actor, slot.cursor)
            except Exception as error:
                await self._record_failure(actor, slot, error)
                raise
            async with self.unit_of_work(actor) as uow:
                if cursor is None:
                    await job_queries.finish(uow.connection, slot)
                else:
                    await job_queries.hand_on(uow.connection, slot, cursor)
            return True

    async def _record_failure(self, actor: Principal, slot: Slot, error: Exception) -> None:
        async with self.unit_of_work(actor) as uow:
            await job_queries.fail(uow.connection, slot, summarize_error(error))
