"""Periodic jobs: each slot once, whoever ticks and however often; a slice of at most five seconds at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import structlog

from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.ids import uuid7, uuid7_floor
from services.user_management.core.principal import system
from services.user_management.enums import JobName
from services.user_management.queries import job as job_queries
from services.user_management.queries import oauth_flow as flow_queries
from services.user_management.queries import outbox as outbox_queries
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries import user as user_queries
from services.user_management.queries import webhook as webhook_queries
from services.user_management.queries import webhook_delivery as delivery_queries
from services.user_management.queries.job import Slot
from services.user_management.unit_of_work import UnitOfWorkFactory

SLICE_TIMEOUT_SECONDS: Final = 20.0
"""Above the five seconds a slice works and the 8 s of its last provider call; below the lease of a slot (25 s)."""
RUNS_KEPT_DAYS: Final = 2
FLOWS_KEPT_HOURS: Final = 24
REVOCATIONS_KEPT: Final = timedelta(days=90)
PARTITIONS_AHEAD: Final = 3
SIGN_INS_KEPT: Final = timedelta(days=90)
WEBHOOKS_KEPT: Final = timedelta(days=35)
"""How long an applied event is known again: Svix lets operators send a message anew weeks later, under its old id."""
EVENTS_KEPT: Final = timedelta(days=35)
"""How long what was told to others can be sent again."""

Slice = Callable[[Any], Awaitable[Any]]
"""Works from a cursor (None at first) and returns the next one; None when the slot is done."""

log = structlog.get_logger(__name__)


class JobService:
    """The slot runner, and the upkeep of its own tables."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def run(self, job: JobName, *, period_seconds: float, work: Slice) -> bool:
        """Run a slice of the current slot of `job`, if it is free; whether anything was run.

        An error of `work` is recorded with the slot and raised. The next tick tries again: the same slot, three times
        in all, or the next slot where slots are as short as ticks.
        """
        with use_context(RequestContext(request_id=f"{job.value}-{uuid7()}", actor=system(job.value))):
            async with self._unit_of_work() as uow:
                slot = await job_queries.claim(uow.connection, job=job.value, period_seconds=period_seconds)
            if slot is None:
                return False
            try:
                async with asyncio.timeout(SLICE_TIMEOUT_SECONDS):
                    cursor = await work(slot.cursor)
            except Exception as error:
                await self._record_failure(slot, error)
                raise
            async with self._unit_of_work() as uow:
                if cursor is None:
                    await job_queries.finish(uow.connection, slot)
                else:
                    await job_queries.hand_on(uow.connection, slot, cursor)
            return True

    async def _record_failure(self, slot: Slot, error: Exception) -> None:
        async with self._unit_of_work() as uow:
            await job_queries.fail(uow.connection, slot, f"{type(error).__name__}: {error}")

    async def maintain_tables(self, _cursor: Any) -> None:
        """Slice: make the coming months' partitions, forget old runs, connect attempts, sign-ins and
        events that were applied or told."""
        async with self._unit_of_work() as uow:
            made = await job_queries.ensure_log_partitions(uow.connection, months_ahead=PARTITIONS_AHEAD)
            await job_queries.prune(uow.connection, days=RUNS_KEPT_DAYS)
            await flow_queries.prune(uow.connection, hours=FLOWS_KEPT_HOURS)
            await user_queries.prune_sign_ins(uow.connection, older_than=SIGN_INS_KEPT)
            await revocation_queries.prune(uow.connection, before=uuid7_floor(uow.clock.now() - REVOCATIONS_KEPT))
            await webhook_queries.prune(uow.connection, before=uuid7_floor(uow.clock.now() - WEBHOOKS_KEPT))
            told_before = uuid7_floor(uow.clock.now() - EVENTS_KEPT)
            await outbox_queries.prune(uow.connection, before=told_before)
            await delivery_queries.prune(uow.connection, before=told_before)
        if made:
            log.info("partitions.created", count=made)
