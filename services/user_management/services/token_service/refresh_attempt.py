"""One refresh by the process that has the integration's lease: asks the provider once, and stores the new tokens or the
failure."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from services.user_management.core import integration_counts
from services.user_management.core.clock import Clock
from services.user_management.core.failpoints import Failpoint, failpoint, watched_call
from services.user_management.core.principal import system
from services.user_management.database import DatabaseError, is_unavailable
from services.user_management.enums import (
    IntegrationStatus,
    ProviderErrorKind,
    ReauthReason,
    RefreshEnd,
    RefreshKind,
    TokenKind,
)
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_client import OAuthClient, TokenAnswer
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import (
    BREAKER_OPEN,
    TOO_LATE,
    TOO_MANY_CALLS,
    ProviderCallError,
)
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import token_refresh as queries
from services.user_management.queries.token_refresh import Advanced, Claim, Failure, FailureRun
from services.user_management.queries.token_revocation import Origin
from services.user_management.schemas.events import IntegrationRecovered
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.token_service.storage import store_tokens
from services.user_management.services.unkept_tokens import revoke_unkept
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

DEGRADED_AFTER_FAILURES: Final = 3
EXHAUSTED_AFTER_SECONDS: Final = 3 * 86_400.0
EXHAUSTED_AFTER_FAILURES: Final = 6
"""How long a run of the provider's failures must be, in time and in number, before a repeated refusal with an unknown
code means that the user has to connect again."""
KEY_UNAVAILABLE: Final = "key_unavailable"
_MAX_COOL_DOWN_SECONDS: Final = 300.0
_MAX_PROVIDERS_WISH_SECONDS: Final = 3600.0
_OPERATOR_COOL_DOWN_SECONDS: Final = 30.0
_KEY_COOL_DOWN_SECONDS: Final = 5.0
_STRICT_NEXT_TRY_SECONDS: Final = 15.0
"""The extra pause after an answer was lost, at a provider that accepts each refresh token once. The next try may be the
last that can succeed, so it is made when the trouble may be over: four times as late for each earlier call whose
outcome is unknown."""
_NOT_SENT: Final = {BREAKER_OPEN: 1.0, TOO_MANY_CALLS: 1.0, TOO_LATE: 0.0}
"""The codes of failed calls that were not sent, each with the pause in seconds before the integration may be refreshed
again. It is short, since another process may succeed. After `too_late` (this process or the lease was about to end)
another may try at once."""
_END_WITH: Final = {
    ReauthReason.GRANT_REFUSED: RefreshEnd.REAUTH,
    ReauthReason.REFRESH_INTERRUPTED: RefreshEnd.INTERRUPTED,
}
"""How a refresh is counted that sets the integration to needs_reauth, by the reason. Other reasons count nothing: they
are not about the provider's answer, or the refresh has been counted already."""

log = structlog.get_logger(__name__)


class RefreshOutcome(StrEnum):
    """How a refresh ended, for its callers. UNAVAILABLE: it failed in a way that may pass, was held back, or did not
    end in time; MISCONFIGURED: the provider refuses our client, or is not configured."""

    REFRESHED = "refreshed"
    """The caller should read the integration again: a newer token was stored, or its state has changed meanwhile."""
    REFUSED = "refused"
    """The integration serves no tokens: its user has to connect again, has disconnected it, or is not active."""
    IMPOSSIBLE = "impossible"
    """There is no refresh token. The access token can be used until it expires."""
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class RefreshResult:
    outcome: RefreshOutcome
    retry_after_seconds: float = 1.0
    failure: ProviderCallError | None = None
    """Why the provider call failed or was not sent; None unless this process tried a call and the outcome is
    UNAVAILABLE."""


REFRESHER: Final = system("token_refresh")
"""The actor of all refreshes, whoever asked for them."""
REFRESHED: Final = RefreshResult(RefreshOutcome.REFRESHED)
REFUSED: Final = RefreshResult(RefreshOutcome.REFUSED)


@dataclass(kw_only=True, eq=False)
class RefreshAttempts:
    """Refreshes the tokens of integrations whose lease (the right to refresh, until a time) this process has. Every
    attempt ends with new tokens, a changed status, or the lease given back with a pause."""

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    oauth: OAuthClient
    vault: VaultService
    status: IntegrationStatusTracker
    clock: Clock

    async def carry_out(self, claim: Claim, lease_ends: float, *, may_call: Callable[[], bool]) -> RefreshResult:
        """Refresh the tokens of `claim`, store the answer or the failure, and return how it ended.

        `may_call` is called just before the request is sent; if it returns False, nothing is sent and the result is
        UNAVAILABLE. `lease_ends` is the time until which an answer may be stored, in seconds of the monotonic clock; a
        short lease ends earlier unless it is renewed. Raises KeyUnavailableError, or the database's error if the answer
        or failure could not be stored.
        """
        if claim.provider not in self.providers:
            return await self._misconfigured(claim, Failure("unknown_provider"))
        refresh_token = await self._open(claim)
        if isinstance(refresh_token, RefreshResult):
            return refresh_token
        provider = self.providers.get(claim.provider)
        try:
            with watched_call():
                answer = await self.oauth.refresh(provider, refresh_token=refresh_token, may_send=may_call)
        except ProviderCallError as error:
            return await self._failed(claim, provider, error)
        failpoint(Failpoint.ANSWER_PARSED)
        result = await self._store(claim, provider, answer, lease_ends)
        failpoint(Failpoint.STORED)
        return result

    async def _open(self, claim: Claim) -> str | RefreshResult:
        """Return the refresh token; if there is none or it is damaged, end the attempt and return its result. Raises
        KeyUnavailableError, after giving the lease back, if this process lacks the token's key or the active one, or if
        so many tokens are damaged that the fault is probably ours."""
        stored = claim.tokens.get(TokenKind.REFRESH)
        if stored is None:
            return await self._without_refresh_token(claim)
        try:
            binding = token_binding(claim.user_id, claim.integration_id, TokenKind.REFRESH)
            refresh_token = self.vault.open(stored.ciphertext, binding, stored.key_version)
            await self.vault.ensure_proven(claim.active_key_version)
        except KeyUnavailableError:
            end = RefreshEnd.OPERATOR
            await self._release(
                claim, Failure(KEY_UNAVAILABLE), end=end, cool_down_seconds=_KEY_COOL_DOWN_SECONDS, was_sent=False
            )
            raise
        except PoisonedCiphertextError:
            return await self._unreadable(claim)
        return refresh_token

    async def _store(self, claim: Claim, provider: Provider, answer: TokenAnswer, lease_ends: float) -> RefreshResult:
        """Store the answer. After any error of the database, try again until `lease_ends`, because the refresh token in
        the answer may be the only one that still works.

        Returns REFRESHED, also if the answer was discarded because the integration has newer tokens, was revoked or
        disconnected, or (at a strict provider) another process has claimed it; UNAVAILABLE if Postgres was unavailable
        until the end. Any other error of the database is raised at the end.
        """
        pause = 0.05
        while True:
            try:
                stored = await self._store_once(claim, provider, answer)
            except DatabaseError as error:
                if self.clock.monotonic() + pause > lease_ends:
                    log.exception("refresh.answer_lost", integration_id=str(claim.integration_id))
                    if not is_unavailable(error):
                        raise
                    return RefreshResult(RefreshOutcome.UNAVAILABLE)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
            else:
                if not stored:
                    log.warning("refresh.answer_discarded", integration_id=str(claim.integration_id))
                return REFRESHED

    async def _store_once(self, claim: Claim, provider: Provider, answer: TokenAnswer) -> bool:
        async with self.unit_of_work(REFRESHER) as uow:
            advanced = await queries.advance(
                uow.connection,
                integration_id=claim.integration_id,
                token_version=claim.token_version,
                # A process that took over may have used the old token again; a strict provider then ends the consent,
                # and with it the tokens that we were given.
                attempts=claim.attempts if provider.config.refresh is RefreshKind.STRICT else None,
                scopes=_granted(provider, answer, claim),
                cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS if answer.is_expired else 0.0,
            )
            if advanced is None:
                await self._revoke_if_ended(uow, claim, provider, answer)
                return False
            await store_tokens(
                uow,
                self.vault,
                answer,
                user_id=claim.user_id,
                integration_id=claim.integration_id,
                key_version=claim.active_key_version,
            )
            failpoint(Failpoint.ENCRYPTED)
            await self._tell(uow, claim, provider, advanced)
        return True

    async def _revoke_if_ended(self, uow: UnitOfWork, claim: Claim, provider: Provider, answer: TokenAnswer) -> None:
        """Step: queue the revocation of the new tokens if the user has disconnected or was erased while the refresh was
        under way. The revocation that the disconnect queued covers only the old tokens."""
        if await integration_queries.has_ended(uow.connection, claim.integration_id):
            origin = Origin(claim.integration_id, claim.user_id, claim.provider, account_id="")
            await revoke_unkept(uow, self.vault, provider, origin, answer=answer, key_version=claim.active_key_version)

    async def _tell(self, uow: UnitOfWork, claim: Claim, provider: Provider, advanced: Advanced) -> None:
        """Step: audit and count the refresh. Set the integration to needs_reauth if it lacks a required scope now, or
        record that it has recovered if it was not active."""
        target = ("integration", str(claim.integration_id))
        uow.audit("integration.token_refreshed", target=target, user_id=claim.user_id)
        uow.count(integration_counts.refresh(claim.provider, RefreshEnd.REFRESHED))
        if provider.config.missing_required(advanced.granted_scopes):
            integration = IntegrationVersion(claim.integration_id, advanced.token_version)
            await self.status.mark_needs_reauth(uow, integration, ReauthReason.SCOPE_UPGRADE)
        elif advanced.former_status != IntegrationStatus.ACTIVE:
            self.status.record(
                uow,
                IntegrationRecovered(
                    integration_id=claim.integration_id, user_id=claim.user_id, provider=claim.provider
                ),
            )

    async def _failed(self, claim: Claim, provider: Provider, error: ProviderCallError) -> RefreshResult:
        failure = Failure(error.code, error.detail)
        log.warning(
            "refresh.refused",
            integration_id=str(claim.integration_id),
            provider=provider.name,
            reason=error.code,
            detail=error.detail,
        )
        if error.code in _NOT_SENT:
            cool_down = _NOT_SENT[error.code]
            await self._release(claim, None, end=RefreshEnd.TRANSIENT, cool_down_seconds=cool_down, was_sent=False)
            return RefreshResult(RefreshOutcome.UNAVAILABLE, error.retry_after or 1.0, error)
        if error.kind is ProviderErrorKind.OPERATOR:
            return await self._misconfigured(claim, failure)
        if error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}:
            if provider.config.rotates and claim.earlier_outcome_unknown:
                return await self._needs_reauth(claim, ReauthReason.REFRESH_INTERRUPTED, failure)
            if error.kind is ProviderErrorKind.REVOKED:
                return await self._revoked(claim, failure)
            return await self._needs_reauth(claim, ReauthReason.GRANT_REFUSED, failure)
        is_lost = error.outcome_unknown and not error.answered
        extra_seconds = 0.0
        if is_lost and provider.config.refresh is RefreshKind.STRICT:
            extra_seconds = _STRICT_NEXT_TRY_SECONDS * 4.0 ** min(claim.attempts - 1, 4)
        return await self._back_off(claim, error, extra_seconds=extra_seconds)

    async def _back_off(self, claim: Claim, error: ProviderCallError, *, extra_seconds: float) -> RefreshResult:
        """Give the lease back with a pause that grows with each failure and is no shorter than the provider asks for
        (up to an hour). If the provider's calls have failed for days and its last two refusals had the same unknown
        code, the user has to connect again."""
        backoff = min(_MAX_COOL_DOWN_SECONDS, 2.0 ** min(claim.failures, 9) + extra_seconds)
        cool_down = backoff * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        if error.retry_after is not None:
            # Never earlier than the provider asks, and a little later at random, so that not all calls come at once.
            wish = min(_MAX_PROVIDERS_WISH_SECONDS, error.retry_after)
            cool_down = max(cool_down, wish + random.uniform(0, min(30.0, 0.1 * wish)))  # noqa: S311 - jitter
        failure = Failure(error.code, error.detail)
        run = await self._release(
            claim,
            failure,
            end=RefreshEnd.UNKNOWN if error.kind is ProviderErrorKind.UNKNOWN else RefreshEnd.TRANSIENT,
            cool_down_seconds=cool_down,
            outcome_unknown=error.outcome_unknown,
            provider_failed=True,
        )
        # After days of an outage, a single refusal is no reason to ask the user: the provider has to repeat it.
        is_repeated = error.kind is ProviderErrorKind.UNKNOWN and claim.last_failure == error.code
        if is_repeated and _is_exhausted(run):
            return await self._needs_reauth(claim, ReauthReason.REFRESH_EXHAUSTED, failure)
        return RefreshResult(RefreshOutcome.UNAVAILABLE, cool_down, error)

    async def _needs_reauth(self, claim: Claim, reason: ReauthReason, failure: Failure | None = None) -> RefreshResult:
        """Set the integration to needs_reauth, and return REFUSED. If its token version is another by now, or it no
        longer serves tokens, change nothing and return REFRESHED: the caller then reads its present state."""
        async with self.unit_of_work(REFRESHER) as uow:
            integration = IntegrationVersion(claim.integration_id, claim.token_version)
            marked = await self.status.mark_needs_reauth(uow, integration, reason, failure)
            if marked and (end := _END_WITH.get(reason)) is not None:
                uow.count(integration_counts.refresh(claim.provider, end))
        return REFUSED if marked else REFRESHED

    async def _revoked(self, claim: Claim, failure: Failure) -> RefreshResult:
        async with self.unit_of_work(REFRESHER) as uow:
            integration = IntegrationVersion(claim.integration_id, claim.token_version)
            marked = await self.status.mark_revoked(uow, integration, failure)
            if marked:
                uow.count(integration_counts.refresh(claim.provider, RefreshEnd.REVOKED))
        return REFUSED if marked else REFRESHED

    async def _unreadable(self, claim: Claim) -> RefreshResult:
        if not self.vault.poison_guard.may_mark(claim.integration_id):
            await self._release(claim, Failure("token_unreadable"), cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS)
            raise KeyUnavailableError
        return await self._needs_reauth(claim, ReauthReason.TOKEN_UNREADABLE)

    async def _misconfigured(self, claim: Claim, failure: Failure) -> RefreshResult:
        log.error("provider.misconfigured", provider=claim.provider, reason=failure.code, detail=failure.detail)
        await self._release(
            claim,
            failure,
            end=RefreshEnd.OPERATOR,
            is_misconfigured=True,
            cool_down_seconds=_OPERATOR_COOL_DOWN_SECONDS,
        )
        return RefreshResult(RefreshOutcome.MISCONFIGURED, _OPERATOR_COOL_DOWN_SECONDS)

    async def _without_refresh_token(self, claim: Claim) -> RefreshResult:
        """End the attempt for an integration without a refresh token. While its access token is valid it keeps its
        status and is not tried again for a while (IMPOSSIBLE); after that it is set to needs_reauth."""
        access = claim.tokens.get(TokenKind.ACCESS)
        remaining = access.remaining_seconds if access is not None else 0.0
        if remaining is not None and remaining <= 0:
            return await self._needs_reauth(claim, ReauthReason.NO_REFRESH_TOKEN)
        # Readers in the meantime find the cool-down and write nothing.
        pause = min(_OPERATOR_COOL_DOWN_SECONDS, remaining or _OPERATOR_COOL_DOWN_SECONDS)
        await self._release(claim, Failure(ReauthReason.NO_REFRESH_TOKEN), cool_down_seconds=pause)
        return RefreshResult(RefreshOutcome.IMPOSSIBLE, pause)

    async def _release(
        self,
        claim: Claim,
        failure: Failure | None,
        *,
        cool_down_seconds: float,
        end: RefreshEnd | None = None,
        is_misconfigured: bool = False,
        was_sent: bool = True,
        outcome_unknown: bool = False,
        provider_failed: bool = False,
    ) -> FailureRun:
        """Give the lease back, with a pause of `cool_down_seconds`, record `failure` (None: the recorded one stays),
        and count `end` and, with `is_misconfigured`, a misconfigured provider. Returns the provider's failures in a
        row; their number is 0 if this failure was not the provider's, or if the lease was lost, which leaves the row as
        it is.

        If the outcome of an earlier call is unknown, it stays so until an answer is stored. A call that was not sent
        does not count as an attempt. After three failures of the provider in a row the integration is degraded; an
        operator's mistake is no reason for that.
        """
        attempts = claim.attempts if outcome_unknown or claim.earlier_outcome_unknown else 0
        async with self.unit_of_work(REFRESHER) as uow:
            run = await queries.release(
                uow.connection,
                claim,
                failure,
                attempts=attempts if was_sent else claim.attempts - 1,
                provider_failed=provider_failed,
                cool_down_seconds=cool_down_seconds,
            )
            if end is not None:
                uow.count(integration_counts.refresh(claim.provider, end))
            if is_misconfigured:
                uow.count(integration_counts.misconfigured(claim.provider))
            if failure is not None and run.count >= DEGRADED_AFTER_FAILURES:
                integration = IntegrationVersion(claim.integration_id, claim.token_version)
                await self.status.mark_degraded(uow, integration, failure.code)
        return run


def _granted(provider: Provider, answer: TokenAnswer, claim: Claim) -> tuple[str, ...] | None:
    """Return the scopes that the tokens of `answer` have: those that the answer names, and those granted before that
    this provider never names. Returns None if the answer names no scopes, so that they have not changed."""
    return None if answer.scopes is None else provider.config.granted(answer.scopes, claim.granted_scopes)


def _is_exhausted(run: FailureRun) -> bool:
    return run.count >= EXHAUSTED_AFTER_FAILURES and run.seconds >= EXHAUSTED_AFTER_SECONDS
