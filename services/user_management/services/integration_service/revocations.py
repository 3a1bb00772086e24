"""Revokes the consents of disconnected integrations, and tokens that no integration holds, at the providers. Each
revocation is tried again until it succeeds, is superseded by a new consent, proves impossible, or is a week old."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from services.user_management.core.principal import Principal
from services.user_management.enums import ProviderErrorKind, RevocationState, TokenKind
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_client import OAuthClient, RevocationOutcome
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import REVOCATION_IMPOSSIBLE, ProviderCallError
from services.user_management.queries import token_revocation as queries
from services.user_management.queries.token_revocation import DueRevocation, SealedToken, SealedTokens
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.unkept_tokens import preferred_kind, revokes_whole_consent
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

BATCH: Final = 8
LEASE_SECONDS: Final = 30.0
"""For how long a revocation belongs to the worker that took it. This is longer than a slice and its last call take."""
BACK_OFF_SECONDS: Final = (10.0, 60.0, 300.0, 1800.0, 7200.0, 21_600.0, 43_200.0)
"""The seconds to wait after the first failure, after the second and so on; the last pause is repeated."""
GIVEN_UP_AFTER_SECONDS: Final = 7 * 86_400.0
REVOCATION_PRUNING: Final = Pruning(timedelta(days=90), queries.prune)
ACCESS_TOKEN_RAN_OUT: Final = "access_token_ran_out"  # noqa: S105 - a reason

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class RevocationService:
    """Carries out the queued revocations, as a periodic job."""

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    oauth: OAuthClient
    vault: VaultService
    start_slice: StartSlice

    async def revoke_due(self, actor: Principal, _cursor: Any = None) -> None:
        """Slice (a few seconds of the job): carry out the revocations that are due, batch by batch, until none is left
        or the time is over.

        A batch that has begun is finished even when the time is over, since a renewed token must be stored; this takes
        ten seconds at most. So the job's time limit can cut off only the call that revokes. That call is made again
        later, and revoking twice does no harm (RFC 7009 section 2.2). Failures of providers are recorded and not
        raised."""
        time = self.start_slice()
        while time.may_begin():
            async with self.unit_of_work(actor) as uow:
                due = await queries.claim_due(uow.connection, limit=BATCH, lease_seconds=LEASE_SECONDS)
            if not due:
                return
            ended = await asyncio.gather(
                *(self._revoke(actor, revocation) for revocation in due), return_exceptions=True
            )
            # All are awaited first: an error in one must not cut off another between its answer and storing it.
            for failure in filter(None, ended):
                raise failure

    async def _revoke(self, actor: Principal, revocation: DueRevocation) -> None:
        if revocation.provider not in self.providers:
            await self._postpone(actor, revocation, "unknown_provider")
            return
        provider = self.providers.get(revocation.provider)
        if revocation.account_is_connected and revokes_whole_consent(provider):
            await self._finish(actor, revocation, RevocationState.SUPERSEDED)
            return
        try:
            token = await self._token_to_show(actor, provider, revocation)
            if token is None:
                return  # finished, or somebody else has taken it over
            outcome = await self.oauth.revoke(provider, token=token)
        except KeyUnavailableError:
            await self._postpone(actor, revocation, "key_unavailable")
        except PoisonedCiphertextError:
            await self._finish(actor, revocation, RevocationState.IMPOSSIBLE, failure="token_unreadable")
        except ProviderCallError as error:
            await self._judge(actor, revocation, error)
        else:
            was_gone = outcome is RevocationOutcome.ALREADY_GONE
            await self._finish(actor, revocation, RevocationState.DONE, failure=outcome if was_gone else None)

    async def _token_to_show(self, actor: Principal, provider: Provider, revocation: DueRevocation) -> str | None:
        """Return the token to send to the provider: the stored one or, if that has expired (or will within a minute) or
        is of a kind that the provider does not take, a new access token, obtained by a refresh.

        Returns None if this method has finished the revocation, or another worker has taken it over. Raises
        ProviderCallError, KeyUnavailableError, PoisonedCiphertextError."""
        if not revocation.has_run_out and not _is_refused_kind(provider, revocation.token.kind):
            return self._open(revocation, revocation.token)
        # A token that has run out must not be sent: a provider that does not know it would be taken to have revoked it.
        held = revocation.token if revocation.token.kind is TokenKind.REFRESH else revocation.renewal
        if held is None:
            await self._finish(actor, revocation, RevocationState.IMPOSSIBLE, failure=ACCESS_TOKEN_RAN_OUT)
            return None
        try:
            return await self._renewed(actor, provider, revocation, held)
        except ProviderCallError as error:
            if error.kind not in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED}:
                raise
            # The consent has ended already, which is all that was wanted; unless an earlier refresh of ours that was
            # cut off has used the token up: then its successor may live, and nobody has it.
            state = RevocationState.IMPOSSIBLE if revocation.attempts > 1 else RevocationState.DONE
            await self._finish(actor, revocation, state, failure=error.code)
            return None

    async def _renewed(
        self, actor: Principal, provider: Provider, revocation: DueRevocation, held: SealedToken
    ) -> str | None:
        """Refresh with `held`, store the new tokens with the revocation, and return the access token; None if another
        worker has taken the revocation over. Raises ProviderCallError, KeyUnavailableError, PoisonedCiphertextError."""
        refresh_token = self._open(revocation, held)
        version = await self.vault.active_version()
        answer = await self.oauth.refresh(provider, refresh_token=refresh_token)
        access = self._seal(revocation, TokenKind.ACCESS, answer.access_token, version)
        successor = answer.refresh_token
        refresh = self._seal(revocation, TokenKind.REFRESH, successor, version) if successor is not None else held
        renewed = SealedTokens(access, renewal=refresh, lifetime_seconds=answer.lifetime_seconds)
        async with self.unit_of_work(actor) as uow:
            kept = await queries.renew(uow.connection, revocation, renewed)
        return answer.access_token if kept else None

    def _open(self, revocation: DueRevocation, token: SealedToken) -> str:
        binding = token_binding(revocation.user_id, revocation.integration_id, token.kind)
        return self.vault.open(token.ciphertext, binding, token.key_version)

    def _seal(self, revocation: DueRevocation, kind: TokenKind, plaintext: str, version: int) -> SealedToken:
        binding = token_binding(revocation.user_id, revocation.integration_id, kind)
        return SealedToken(kind, self.vault.seal(plaintext, binding, version), version)

    async def _judge(self, actor: Principal, revocation: DueRevocation, error: ProviderCallError) -> None:
        """Act on a failed call: finish the revocation if the provider cannot revoke, otherwise postpone it. A refusal
        does not prove that the consent is gone; the answers that prove it are in the provider's file (`gone_codes`,
        `gone_statuses`) and raise no error."""
        if error.code == REVOCATION_IMPOSSIBLE:
            await self._finish(actor, revocation, RevocationState.IMPOSSIBLE)
            return
        if error.kind is ProviderErrorKind.OPERATOR:
            log.error("provider.misconfigured", provider=revocation.provider, reason=error.code)
        await self._postpone(actor, revocation, error.code, at_least=error.retry_after or 0.0)

    async def _postpone(
        self, actor: Principal, revocation: DueRevocation, failure: str, *, at_least: float = 0.0
    ) -> None:
        """Schedule the next attempt after a pause that grows with the attempts and lasts at least `at_least` seconds,
        but no more than twelve hours. If the revocation is more than a week old, finish it without success instead
        (GIVEN_UP). `failure` is recorded."""
        if revocation.age_seconds > GIVEN_UP_AFTER_SECONDS:
            log.error("revocation.given_up", provider=revocation.provider, reason=failure, id=str(revocation.id))
            await self._finish(actor, revocation, RevocationState.GIVEN_UP, failure=failure)
            return
        step = min(revocation.attempts, len(BACK_OFF_SECONDS)) - 1
        seconds = max(BACK_OFF_SECONDS[step], min(at_least, BACK_OFF_SECONDS[-1]))
        async with self.unit_of_work(actor) as uow:
            await queries.postpone(uow.connection, revocation.id, seconds=seconds, failure=failure)
        log.warning("revocation.postponed", provider=revocation.provider, reason=failure, seconds=seconds)

    async def _finish(
        self, actor: Principal, revocation: DueRevocation, state: RevocationState, *, failure: str | None = None
    ) -> None:
        async with self.unit_of_work(actor) as uow:
            if await queries.finish(uow.connection, revocation.id, state, failure=failure):
                uow.audit(
                    "integration.revocation_finished",
                    target=("integration", str(revocation.integration_id)),
                    user_id=revocation.user_id,
                    changes={"revocation": [RevocationState.PENDING.value, state.value]},
                )
        log.info("revocation.finished", provider=revocation.provider, state=state.value)


def _is_refused_kind(provider: Provider, kind: TokenKind) -> bool:
    """Tell whether `kind` is a refresh token although the provider takes only access tokens for revocation. Such a
    token is stored if the provider was not configured when the user disconnected."""
    return kind is TokenKind.REFRESH and preferred_kind(provider) is TokenKind.ACCESS
