"""Refreshing a connection's tokens: once, whoever asks and however many, across processes and crashes.

One lease per connection in Postgres decides who calls the provider; the token version is the fence that decides whose
answer counts. In one process the callers share one task. Nothing is held while anybody waits.
"""

import asyncio
import math
import random
from contextvars import Context
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.context import RequestContext, current_context, use_context
from services.user_management.core.principal import system
from services.user_management.database import Database, is_unavailable
from services.user_management.enums import (
    EventType,
    IntegrationStatus,
    ProviderErrorKind,
    ReauthReason,
    RefreshKind,
    TokenKind,
)
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_client import (
    CALL_TIMEOUT_SECONDS,
    POOL_TIMEOUT,
    OAuthClient,
    ProviderCallError,
    TokenGrant,
)
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.queries import token_refresh as queries
from services.user_management.queries.token_refresh import LEASE_SECONDS, Claim, DueRefresh, RefreshState
from services.user_management.services.integration_status_service import ConnectionVersion, IntegrationStatusTracker
from services.user_management.services.token_service.storage import store_tokens
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

WAIT_SECONDS: Final = 9.0
"""How long a caller waits for somebody else's refresh: longer than one call to a provider may take."""
STORE_SECONDS: Final = 0.5
"""What a process that stops keeps for storing an answer that came at the last moment."""
DEGRADED_AFTER_FAILURES: Final = 3
_MAX_COOL_DOWN_SECONDS: Final = 300.0
_OPERATOR_COOL_DOWN_SECONDS: Final = 30.0
_KEY_COOL_DOWN_SECONDS: Final = 5.0
_KEY_UNAVAILABLE: Final = "key_unavailable"

log = structlog.get_logger(__name__)


class RefreshOutcome(StrEnum):
    """How a refresh ended, for whoever waited for it."""

    REFRESHED = "refreshed"
    """The fence moved: by us or by somebody else, there is a newer token."""
    REFUSED = "refused"
    """The connection needs its user."""
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class RefreshResult:
    outcome: RefreshOutcome
    retry_after_seconds: float = 1.0


_REFRESHED: Final = RefreshResult(RefreshOutcome.REFRESHED)
_REFUSED: Final = RefreshResult(RefreshOutcome.REFUSED)


class TokenRefresher:
    """Single flight per connection and token version."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        oauth: OAuthClient,
        vault: VaultService,
        status: IntegrationStatusTracker,
        clock: Clock,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._oauth = oauth
        self._vault = vault
        self._status = status
        self._clock = clock
        self._flights: dict[DueRefresh, asyncio.Task[RefreshResult]] = {}
        self._stops_at = math.inf

    async def refresh(self, integration_id: UUID, token_version: int) -> RefreshResult:
        """Replace the tokens of `token_version`, or wait for whoever is doing it.

        Raises KeyUnavailableError, or the driver's error when Postgres is away before anything was sent.
        """
        wanted = DueRefresh(integration_id, token_version)
        flight = self._flights.get(wanted)
        if flight is None:
            context = RequestContext(request_id=current_context().request_id, actor=system("token_refresh"))
            # A context of its own: it must neither inherit the caller's transaction nor die with the caller.
            flight = asyncio.get_running_loop().create_task(self._fly(wanted, context), context=Context())
            self._flights[wanted] = flight
            flight.add_done_callback(lambda done: self._land(wanted, done))
        return await asyncio.shield(flight)

    def stop_by(self, stops_at: float) -> None:
        """Start no call that could outlive this process, and let nobody wait so long; `stops_at` is monotonic."""
        self._stops_at = stops_at

    async def drain(self, timeout_seconds: float) -> None:
        """Let the refreshes under way finish."""
        if self._flights:
            await asyncio.wait(self._flights.values(), timeout=timeout_seconds)

    def _may_call(self, ends: float) -> bool:
        """Whether a call begun now would be over, its answer stored, before `ends` and before this process stops."""
        needed = CALL_TIMEOUT_SECONDS + STORE_SECONDS
        return self._clock.monotonic() + needed <= min(ends, self._stops_at)

    def _land(self, wanted: DueRefresh, flight: "asyncio.Task[RefreshResult]") -> None:
        del self._flights[wanted]
        if not flight.cancelled() and (error := flight.exception()) is not None:
            log.warning("refresh.failed", integration_id=str(wanted.integration_id), error=repr(error))

    async def _fly(self, wanted: DueRefresh, context: RequestContext) -> RefreshResult:
        with use_context(context):
            deadline = self._clock.monotonic() + WAIT_SECONDS
            while True:
                claimed_at = self._clock.monotonic()
                # A process that stops leaves the lease to one that goes on.
                claim = await self._claim(wanted) if self._may_call(math.inf) else None
                if claim is not None:
                    return await self._refresh_claimed(claim, claimed_at + LEASE_SECONDS)
                result = await self._wait_for_other(wanted, deadline)
                if result is not None:
                    return result

    async def _claim(self, wanted: DueRefresh) -> Claim | None:
        async with self._unit_of_work() as uow:
            return await queries.claim(
                uow.connection, integration_id=wanted.integration_id, token_version=wanted.token_version
            )

    async def _wait_for_other(self, wanted: DueRefresh, deadline: float) -> RefreshResult | None:
        """What came of somebody else's refresh; None when the lease is free and may be claimed."""
        pause = 0.025
        waited = False
        while True:
            async with self._database.reading() as connection:
                state = await queries.refresh_state(connection, wanted.integration_id)
            if state is None or not state.serving:
                return _REFUSED
            if state.token_version != wanted.token_version:
                return _REFRESHED
            if state.cool_down_seconds > 0:
                return RefreshResult(self._outcome_of(state), state.cool_down_seconds)
            if self._clock.monotonic() > min(deadline, self._stops_at - STORE_SECONDS):
                return RefreshResult(RefreshOutcome.UNAVAILABLE)
            if not state.leased and not self._may_call(math.inf):
                return RefreshResult(RefreshOutcome.UNAVAILABLE)
            if not state.leased and waited:
                return None
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads the pollers
            pause = min(0.2, pause * 2)
            waited = True

    def _outcome_of(self, state: RefreshState) -> RefreshOutcome:
        """What the failure that caused a cool-down means for those who come during it. Raises KeyUnavailableError."""
        if state.last_failure == _KEY_UNAVAILABLE:
            raise KeyUnavailableError(retry_after=round(state.cool_down_seconds))
        if state.provider not in self._providers:
            return RefreshOutcome.MISCONFIGURED
        kind = self._providers.get(state.provider).config.error_kind(state.last_failure or "")
        return RefreshOutcome.MISCONFIGURED if kind is ProviderErrorKind.OPERATOR else RefreshOutcome.UNAVAILABLE

    async def _refresh_claimed(self, claim: Claim, lease_ends: float) -> RefreshResult:
        stored = claim.tokens.get(TokenKind.REFRESH)
        if stored is None:
            return await self._without_refresh_token(claim)
        if claim.provider not in self._providers:
            return await self._misconfigured(claim, "unknown_provider")
        provider = self._providers.get(claim.provider)
        try:
            binding = token_binding(claim.user_id, claim.integration_id, TokenKind.REFRESH)
            refresh_token = self._vault.open(stored.ciphertext, binding, stored.key_version)
            self._vault.require(claim.active_key_version)
        except KeyUnavailableError:
            await self._release(claim, _KEY_UNAVAILABLE, cool_down_seconds=_KEY_COOL_DOWN_SECONDS)
            raise
        except PoisonedCiphertextError:
            return await self._unreadable(claim)
        if not self._may_call(lease_ends):
            # The claim took so long that the lease could run out during the call: somebody else would start a second.
            await self._release(claim, "lease_too_short", cool_down_seconds=0)
            return RefreshResult(RefreshOutcome.UNAVAILABLE)
        try:
            grant = await self._oauth.refresh(provider, refresh_token=refresh_token)
        except ProviderCallError as error:
            return await self._failed(claim, provider, error)
        return await self._store(claim, grant, lease_ends)

    async def _store(self, claim: Claim, grant: TokenGrant, lease_ends: float) -> RefreshResult:
        """Keep the answer. If Postgres is away, try again for as long as the lease protects it: the refresh token in
        our hands may be the only one that still works."""
        pause = 0.05
        while True:
            try:
                stored = await self._store_once(claim, grant)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if self._clock.monotonic() + pause > lease_ends:
                    log.exception("refresh.answer_lost", integration_id=str(claim.integration_id))
                    return RefreshResult(RefreshOutcome.UNAVAILABLE)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
            else:
                if not stored:
                    log.warning("refresh.answer_discarded", integration_id=str(claim.integration_id))
                return _REFRESHED

    async def _store_once(self, claim: Claim, grant: TokenGrant) -> bool:
        async with self._unit_of_work() as uow:
            former_status = await queries.advance(
                uow.connection,
                integration_id=claim.integration_id,
                token_version=claim.token_version,
                scopes=grant.scopes,
                cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS if grant.is_expired else 0.0,
            )
            if former_status is None:
                return False
            await store_tokens(
                uow,
                self._vault,
                grant,
                user_id=claim.user_id,
                integration_id=claim.integration_id,
                key_version=claim.active_key_version,
            )
            target = ("integration", str(claim.integration_id))
            uow.audit("integration.token_refreshed", target=target, user_id=claim.user_id)
            if former_status != IntegrationStatus.ACTIVE:
                self._status.record(
                    uow,
                    EventType.INTEGRATION_RECOVERED,
                    integration_id=claim.integration_id,
                    user_id=claim.user_id,
                    provider=claim.provider,
                )
        return True

    async def _failed(self, claim: Claim, provider: Provider, error: ProviderCallError) -> RefreshResult:
        log.warning(
            "refresh.refused", integration_id=str(claim.integration_id), provider=provider.name, reason=error.code
        )
        if error.kind is ProviderErrorKind.OPERATOR:
            return await self._misconfigured(claim, error.code)
        if error.kind is ProviderErrorKind.REAUTH:
            rotates = provider.config.refresh in {RefreshKind.STRICT, RefreshKind.GRACE}
            interrupted = rotates and claim.earlier_outcome_unknown
            reason = ReauthReason.REFRESH_INTERRUPTED if interrupted else ReauthReason.GRANT_REFUSED
            return await self._needs_reauth(claim, reason)
        backoff = min(_MAX_COOL_DOWN_SECONDS, 2.0 ** min(claim.failures, 9)) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        cool_down = min(_MAX_COOL_DOWN_SECONDS, error.retry_after or backoff)
        await self._release(
            claim,
            error.code,
            cool_down_seconds=cool_down,
            outcome_unknown=error.outcome_unknown,
            provider_failed=error.code != POOL_TIMEOUT,
        )
        return RefreshResult(RefreshOutcome.UNAVAILABLE, cool_down)

    async def _needs_reauth(self, claim: Claim, reason: ReauthReason) -> RefreshResult:
        """After a refusal the version is looked at again: if it moved, the winner's token is what counts."""
        async with self._unit_of_work() as uow:
            connection = ConnectionVersion(claim.integration_id, claim.token_version)
            marked = await self._status.mark_needs_reauth(uow, connection, reason)
        return _REFUSED if marked else _REFRESHED

    async def _unreadable(self, claim: Claim) -> RefreshResult:
        if not self._vault.poison_guard.may_mark(claim.integration_id):
            await self._release(claim, "token_unreadable", cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS)
            raise KeyUnavailableError
        return await self._needs_reauth(claim, ReauthReason.TOKEN_UNREADABLE)

    async def _misconfigured(self, claim: Claim, code: str) -> RefreshResult:
        log.error("provider.misconfigured", provider=claim.provider, reason=code)
        await self._release(claim, code, cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS)
        return RefreshResult(RefreshOutcome.MISCONFIGURED, _OPERATOR_COOL_DOWN_SECONDS)

    async def _without_refresh_token(self, claim: Claim) -> RefreshResult:
        """Nothing to refresh with: the token serves until it runs out, then the user is needed."""
        access = claim.tokens.get(TokenKind.ACCESS)
        remaining = access.remaining_seconds if access is not None else 0.0
        if remaining is not None and remaining <= 0:
            return await self._needs_reauth(claim, ReauthReason.NO_REFRESH_TOKEN)
        # Readers in the meantime find the cool-down and write nothing.
        pause = min(_OPERATOR_COOL_DOWN_SECONDS, remaining or _OPERATOR_COOL_DOWN_SECONDS)
        await self._release(claim, ReauthReason.NO_REFRESH_TOKEN, cool_down_seconds=pause)
        return RefreshResult(RefreshOutcome.UNAVAILABLE, pause)

    async def _release(
        self,
        claim: Claim,
        failure: str,
        *,
        cool_down_seconds: float,
        outcome_unknown: bool = False,
        provider_failed: bool = False,
    ) -> None:
        """Give the lease back. An earlier unknown outcome stays unknown until an answer is stored.

        Only failures of the provider degrade a connection: an operator's mistake is no reason to mark anybody.
        """
        async with self._unit_of_work() as uow:
            failures = await queries.release(
                uow.connection,
                claim,
                failure=failure,
                outcome_unknown=outcome_unknown or claim.earlier_outcome_unknown,
                provider_failed=provider_failed,
                cool_down_seconds=cool_down_seconds,
            )
            if failures >= DEGRADED_AFTER_FAILURES:
                connection = ConnectionVersion(claim.integration_id, claim.token_version)
                await self._status.mark_degraded(uow, connection, failure)
