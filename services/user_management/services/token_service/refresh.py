"""Refreshes an integration's tokens once, however many callers ask for it, across processes and crashes.

One lease per integration in Postgres decides who calls the provider; the token version is the fence that decides whose
answer counts. In one process the callers share one task. Nothing is held while anybody waits.
"""

import asyncio
import math
import random
from collections.abc import Callable
from contextvars import Context
from typing import Final
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.context import RequestContext, current_context, use_context
from services.user_management.core.failpoints import Failpoint, failpoint
from services.user_management.database import Database, DatabaseError
from services.user_management.enums import ProviderErrorKind, ReauthReason, RefreshKind
from services.user_management.exceptions import KeyUnavailableError
from services.user_management.integrations.oauth_client import CALL_TIMEOUT_SECONDS
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.integrations.provider_gate import ProviderGate
from services.user_management.logging_config import summarize_error
from services.user_management.queries import token_refresh as queries
from services.user_management.queries.due_refresh import DueRefresh
from services.user_management.queries.token_refresh import (
    LEASE_SECONDS,
    SHORT_LEASE_SECONDS,
    Claim,
    RefreshState,
)
from services.user_management.services.token_service.refresh_attempt import (
    KEY_UNAVAILABLE,
    REFRESHED,
    REFRESHER,
    REFUSED,
    RefreshAttempts,
    RefreshOutcome,
    RefreshResult,
)
from services.user_management.unit_of_work import UnitOfWorkFactory

WAIT_SECONDS: Final = 9.0
"""How long a caller waits for somebody else's refresh: longer than one call to a provider may take."""
RENEWAL_SECONDS: Final = 1.0
"""How often the holder of a short lease renews it: late enough that a quick call costs no further write, and early
enough that a renewal that fails can be repeated before the lease ends."""
STORE_SECONDS: Final = 0.5
"""The time that a stopping process reserves for storing an answer that comes at the last moment."""

log = structlog.get_logger(__name__)


class TokenRefresher:
    """Makes callers share one refresh per integration and token version."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        attempts: RefreshAttempts,
        gate: ProviderGate,
        clock: Clock,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._attempts = attempts
        self._gate = gate
        self._clock = clock
        self._is_stopping = is_stopping
        self._flights: dict[DueRefresh, asyncio.Task[RefreshResult]] = {}
        self._stops_at = math.inf

    async def refresh(self, integration_id: UUID, token_version: int) -> RefreshResult:
        """Replace the tokens of `token_version`, or wait for whoever is doing it.

        Raises KeyUnavailableError, or the driver's error when Postgres is away before anything was sent.
        """
        wanted = DueRefresh(integration_id, token_version)
        flight = self._flights.get(wanted)
        if flight is None:
            context = RequestContext(request_id=current_context().request_id, actor=REFRESHER)
            # A context of its own: it must neither inherit the caller's transaction nor die with the caller.
            flight = asyncio.get_running_loop().create_task(self._fly(wanted, context), context=Context())
            self._flights[wanted] = flight
            flight.add_done_callback(lambda done: self._land(wanted, done))
        return await asyncio.shield(flight)

    def stop_by(self, stops_at: float) -> None:
        """From now on start no call, and let no caller wait, beyond `stops_at` (monotonic), when this process ends."""
        self._stops_at = stops_at

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for the refreshes under way, for at most `timeout_seconds`."""
        if self._flights:
            await asyncio.wait(self._flights.values(), timeout=timeout_seconds)

    def _may_call(self, ends: float) -> bool:
        """Tell whether a call that begins now would be over, with its answer stored, before `ends` (monotonic) and
        before this process stops."""
        needed = CALL_TIMEOUT_SECONDS + STORE_SECONDS
        return not self._is_stopping() and self._clock.monotonic() + needed <= min(ends, self._stops_at)

    def _land(self, wanted: DueRefresh, flight: "asyncio.Task[RefreshResult]") -> None:
        del self._flights[wanted]
        if not flight.cancelled() and (error := flight.exception()) is not None:
            log.warning("refresh.failed", integration_id=str(wanted.integration_id), error=summarize_error(error))

    async def _fly(self, wanted: DueRefresh, context: RequestContext) -> RefreshResult:
        with use_context(context):
            deadline = self._clock.monotonic() + WAIT_SECONDS
            failpoint(Failpoint.BEFORE_LEASE)
            while True:
                claimed_at = self._clock.monotonic()
                claim = await self._claim(wanted) if await self._may_claim(wanted) else None
                if claim is not None:
                    failpoint(Failpoint.LEASED)
                    return await self._carry_out(claim, claimed_at)
                result = await self._wait_for_other(wanted, deadline)
                if result is not None:
                    return result

    async def _carry_out(self, claim: Claim, claimed_at: float) -> RefreshResult:
        """Call the provider and store its answer. A short lease is renewed meanwhile: so it lasts as long as the call,
        but ends soon if this process is killed."""
        may_store_until = claimed_at + LEASE_SECONDS
        leased_until = claimed_at + (SHORT_LEASE_SECONDS if claim.is_short else LEASE_SECONDS)

        def may_call() -> bool:
            return self._may_call(may_store_until) and self._clock.monotonic() < leased_until

        carrying_out = self._attempts.carry_out(claim, may_store_until, may_call=may_call)
        if not claim.is_short:
            return await carrying_out
        attempt = asyncio.get_running_loop().create_task(carrying_out)
        while not (await asyncio.wait([attempt], timeout=RENEWAL_SECONDS))[0]:
            renewed_at = self._clock.monotonic()
            if await self._renew(claim):
                leased_until = renewed_at + SHORT_LEASE_SECONDS
        return attempt.result()

    async def _renew(self, claim: Claim) -> bool:
        """Renew a short lease; return False if Postgres is away. Then the lease runs out while the call goes on: at a
        provider with short leases, a second call by somebody else does no harm."""
        try:
            async with self._unit_of_work(REFRESHER) as uow:
                await queries.renew(uow.connection, claim)
        except DatabaseError as error:
            log.warning("refresh.lease_not_renewed", integration_id=str(claim.integration_id), error=repr(error))
            return False
        return True

    async def _may_claim(self, wanted: DueRefresh) -> bool:
        """Tell whether this process should take the lease. A process that is stopping, or whose breaker holds the
        provider back, leaves it to another."""
        if not self._may_call(math.inf):
            return False
        if not self._gate.holds_anything_back:
            return True
        async with self._database.reading() as connection:
            state = await queries.refresh_state(connection, wanted.integration_id)
        return state is None or self._gate.state(state.provider).retry_after_seconds <= 0

    async def _claim(self, wanted: DueRefresh) -> Claim | None:
        short_at = [one.name for one in self._providers if one.config.refresh is not RefreshKind.STRICT]
        async with self._unit_of_work(REFRESHER) as uow:
            return await queries.claim(
                uow.connection,
                integration_id=wanted.integration_id,
                token_version=wanted.token_version,
                short_at=short_at,
            )

    async def _wait_for_other(self, wanted: DueRefresh, deadline: float) -> RefreshResult | None:
        """Wait for somebody else's refresh and return its result; None when the lease is free and may be claimed."""
        pause = 0.025
        waited = False
        while True:
            async with self._database.reading() as connection:
                state = await queries.refresh_state(connection, wanted.integration_id)
            if state is None:
                return REFUSED
            if (verdict := self._verdict(wanted, state, deadline)) is not None:
                return verdict
            if not state.leased and waited:
                return None
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads the pollers
            pause = min(0.2, pause * 2)
            waited = True

    def _verdict(self, wanted: DueRefresh, state: RefreshState, deadline: float) -> RefreshResult | None:
        """Return the result if the row or our own time limit decides it; None: wait on, or claim the lease.

        Raises KeyUnavailableError.
        """
        if not state.serving:
            return REFUSED
        if state.token_version != wanted.token_version:
            return REFRESHED
        if state.cool_down_seconds > 0:
            return RefreshResult(self._outcome_of(state), state.cool_down_seconds)
        is_late = self._clock.monotonic() > min(deadline, self._stops_at - STORE_SECONDS)
        if is_late or self._is_stopping() or (not state.leased and not self._may_call(math.inf)):
            return RefreshResult(RefreshOutcome.UNAVAILABLE)
        held_back = self._gate.state(state.provider).retry_after_seconds
        if not state.leased and held_back > 0:
            return RefreshResult(RefreshOutcome.UNAVAILABLE, held_back)
        return None

    def _outcome_of(self, state: RefreshState) -> RefreshOutcome:
        """Return the outcome for callers during a cool-down, which follows from the failure that caused it. Raises
        KeyUnavailableError."""
        if state.last_failure == KEY_UNAVAILABLE:
            raise KeyUnavailableError(retry_after=math.ceil(state.cool_down_seconds))
        if state.last_failure == ReauthReason.NO_REFRESH_TOKEN:
            return RefreshOutcome.IMPOSSIBLE
        if state.provider not in self._providers:
            return RefreshOutcome.MISCONFIGURED
        kind = self._providers.get(state.provider).config.error_kind(state.last_failure or "")
        return RefreshOutcome.MISCONFIGURED if kind is ProviderErrorKind.OPERATOR else RefreshOutcome.UNAVAILABLE
