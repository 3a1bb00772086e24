"""Refreshes an integration's tokens once, however many callers ask for it, across processes and crashes.

A lease in the integration's row, the right of one process until a time, decides who calls the provider. The token
version is the fence: an answer is stored only if the version is unchanged. In one process all callers wait for one
task. No lock and no database connection is held while a call or a caller waits.
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
"""For how long a caller waits for the refresh of another process. This is longer than one call to a provider may
take."""
RENEWAL_SECONDS: Final = 1.0
"""The time between two renewals of a short lease by its holder: so long that a quick call costs no further write, and
so short that a renewal that fails can be repeated before the lease ends."""
STORE_SECONDS: Final = 0.5
"""The time that is kept free, before a process stops or a lease ends, to store an answer that comes at the last
moment."""

log = structlog.get_logger(__name__)


class TokenRefresher:
    """Refreshes tokens: all callers who want the same token version of an integration replaced share one refresh."""

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
        """Replace the tokens of `token_version`, unless they have been replaced already, or wait for the process that
        is doing so, and return how that ended.

        The refresh goes on if the caller is cancelled. Raises KeyUnavailableError, or an error of the database. If the
        provider has answered and Postgres stays unavailable until the answer can no longer be stored, the outcome is
        UNAVAILABLE instead.
        """
        wanted = DueRefresh(integration_id, token_version)
        flight = self._flights.get(wanted)
        if flight is None:
            context = RequestContext(request_id=current_context().request_id, actor=REFRESHER)
            # A context of its own, so that the task neither inherits the caller's transaction nor dies with the caller.
            flight = asyncio.get_running_loop().create_task(self._fly(wanted, context), context=Context())
            self._flights[wanted] = flight
            flight.add_done_callback(lambda done: self._land(wanted, done))
        return await asyncio.shield(flight)

    def stop_by(self, stops_at: float) -> None:
        """Prepare for the end of the process at `stops_at` (seconds of the monotonic clock): from now on, start no call
        that would not be over by then, and let no caller wait longer."""
        self._stops_at = stops_at

    async def drain(self, timeout_seconds: float) -> None:
        """Wait until the refreshes under way have ended, but for at most `timeout_seconds`; those left go on."""
        if self._flights:
            await asyncio.wait(self._flights.values(), timeout=timeout_seconds)

    def _may_call(self, ends: float) -> bool:
        """Tell whether a call that begins now would be over, with its answer stored, before `ends` (seconds of the
        monotonic clock) and before this process stops."""
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
        """Call the provider and store its answer or failure. A short lease is renewed meanwhile, so it lasts as long as
        the call, and ends soon if this process is killed. A renewal that fails is only logged; but if the lease has
        ended before the request is sent, it is not sent."""
        may_store_until = claimed_at + LEASE_SECONDS
        leased_until = claimed_at + (SHORT_LEASE_SECONDS if claim.is_short else LEASE_SECONDS)

        def may_call() -> bool:
            return self._may_call(may_store_until) and self._clock.monotonic() < leased_until

        carrying_out = self._attempts.carry_out(claim, may_store_until, may_call=may_call)
        if not claim.is_short:
            return await carrying_out

        async def keep_lease() -> None:
            nonlocal leased_until
            while True:
                await asyncio.sleep(RENEWAL_SECONDS)
                renewed_at = self._clock.monotonic()
                if await self._renew(claim):
                    leased_until = renewed_at + SHORT_LEASE_SECONDS

        keeping = asyncio.get_running_loop().create_task(keep_lease())
        try:
            return await carrying_out
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            if not keeping.cancelled() and (error := keeping.exception()) is not None:
                self._log_not_renewed(claim, error)

    async def _renew(self, claim: Claim) -> bool:
        """Renew a short lease; return False if the database fails, True even if another process has the lease by now.
        After a failure the lease may end while the call goes on, and another process may call too, which does no harm
        at the providers that have short leases."""
        try:
            async with self._unit_of_work(REFRESHER) as uow:
                await queries.renew(uow.connection, claim)
        except DatabaseError as error:
            self._log_not_renewed(claim, error)
            return False
        return True

    def _log_not_renewed(self, claim: Claim, error: BaseException) -> None:
        log.warning("refresh.lease_not_renewed", integration_id=str(claim.integration_id), error=summarize_error(error))

    async def _may_claim(self, wanted: DueRefresh) -> bool:
        """Tell whether this process should take the lease. It should not if it is about to stop, or if it holds back
        calls to the provider after several failures; another process may then take it."""
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
        """Wait for the refresh of another process, until `deadline` or until this process is about to stop, and return
        the result; return None when nobody has the lease, so that this process may try to claim it. Raises
        KeyUnavailableError as `_verdict` does."""
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
        """Return the result of a refresh if the row decides it, `deadline` has passed, or this process is about to stop
        or holds back calls to the provider; None means to go on waiting, or to claim the lease if nobody has it.

        Raises KeyUnavailableError if the row's last refresh failed for lack of a key and its pause is not over.
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
        """Return the outcome for callers during the pause after a failed refresh, which depends on that failure. Raises
        KeyUnavailableError if that failure was a missing key."""
        if state.last_failure == KEY_UNAVAILABLE:
            raise KeyUnavailableError(retry_after=math.ceil(state.cool_down_seconds))
        if state.last_failure == ReauthReason.NO_REFRESH_TOKEN:
            return RefreshOutcome.IMPOSSIBLE
        if state.provider not in self._providers:
            return RefreshOutcome.MISCONFIGURED
        kind = self._providers.get(state.provider).config.error_kind(state.last_failure or "")
        return RefreshOutcome.MISCONFIGURED if kind is ProviderErrorKind.OPERATOR else RefreshOutcome.UNAVAILABLE
