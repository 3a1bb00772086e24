"""Builds the query for a token read, and from the query's result the answer or the refusal.

A token read is one SQL statement, the door: it authenticates the calling service, judges and records the read, and
returns a reading, which is an outcome and, if the read is granted, the encrypted token.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from services.user_management.core.clock import Clock
from services.user_management.core.context import current_context
from services.user_management.core.ids import uuid7
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import ReauthReason, TokenKind, TokenOutcome
from services.user_management.exceptions import (
    ApplicationError,
    GrantDeniedError,
    InsufficientScopeError,
    KeyUnavailableError,
    NeedsReauthError,
    NotConnectedError,
    PoisonedCiphertextError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    ReasonRequiredError,
    RevokedError,
    UnauthenticatedError,
    UnknownProviderError,
    UserInactiveError,
    UserNotFoundError,
)
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.models import TokenRead
from services.user_management.queries import integration as integration_queries
from services.user_management.queries.token_read import TokenQuery, TokenReading
from services.user_management.schemas.token import TokenRequest, TokenResponse
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.reconnect_links import ReconnectLinks
from services.user_management.services.service_credentials import ServiceCredential
from services.user_management.services.token_service.refresh_attempt import RefreshOutcome, RefreshResult
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

Value = TypeVar("Value")

DEFAULT_TTL_SECONDS: Final = 300.0
"""The remaining life, in seconds, that a token must have if the caller states none; half its whole life is always
enough."""

_REFUSALS: Final[dict[TokenOutcome, type[ApplicationError]]] = {
    TokenOutcome.GRANT_DENIED: GrantDeniedError,
    TokenOutcome.REASON_REQUIRED: ReasonRequiredError,
    TokenOutcome.UNKNOWN_PROVIDER: UnknownProviderError,
    TokenOutcome.USER_NOT_FOUND: UserNotFoundError,
    TokenOutcome.USER_INACTIVE: UserInactiveError,
    TokenOutcome.NOT_CONNECTED: NotConnectedError,
    TokenOutcome.NEEDS_REAUTH: NeedsReauthError,
    TokenOutcome.REVOKED: RevokedError,
    TokenOutcome.INSUFFICIENT_SCOPE: InsufficientScopeError,
}
_WITH_RECONNECT_URL: Final = {
    TokenOutcome.NOT_CONNECTED,
    TokenOutcome.NEEDS_REAUTH,
    TokenOutcome.REVOKED,
    TokenOutcome.INSUFFICIENT_SCOPE,
}


@dataclass(kw_only=True, eq=False)
class TokenAnswers:
    """Builds the query for a service's request, and from the reading the answer to the service."""

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    vault: VaultService
    status: IntegrationStatusTracker
    links: ReconnectLinks
    default_issuer: str
    clock: Clock

    def query(self, credential: ServiceCredential, request: TokenRequest) -> TokenQuery:
        """Build the query for `request`. Providers' other names for scopes are replaced by ours. The query for an
        unknown provider has no scopes."""
        known = request.provider in self.providers
        return TokenQuery(
            key_id=credential.key_id,
            secret_hash=credential.secret_hash,
            user=request.user_id,
            default_issuer=self.default_issuer,
            provider=request.provider,
            provider_known=known,
            scopes=self.providers.get(request.provider).config.normalise(request.scopes) if known else (),
            account=request.account,
            reason=request.reason,
            demanded_seconds=request.min_ttl_seconds,
            default_seconds=DEFAULT_TTL_SECONDS,
            request_id=current_context().request_id,
        )

    async def answer(self, request: TokenRequest, reading: TokenReading, result: RefreshResult | None) -> TokenResponse:
        """Decrypt the token of a reading that was granted, and return it. `result` is the result of the refresh that
        preceded the reading, if there was one.

        Raises KeyUnavailableError if this process lacks the right key. If the token is damaged, this sets its
        integration to needs_reauth and raises NeedsReauthError; but it raises ProviderUnavailableError if the token was
        replaced meanwhile, and KeyUnavailableError if so many tokens are damaged that the fault is probably ours."""
        access_token = await self._open(request, reading)
        return TokenResponse(
            access_token=access_token,
            expires_at=reading.expires_at,
            expires_in=None if reading.remaining_seconds is None else int(reading.remaining_seconds),
            scopes=list(reading.granted_scopes),
            provider=request.provider,
            account=str(reading.account),
            integration_id=present(reading.integration_id),
            refreshed=result is not None and result.outcome is RefreshOutcome.REFRESHED,
        )

    def refusal(self, request: TokenRequest, reading: TokenReading, result: RefreshResult | None) -> ApplicationError:
        """Return the error for a reading that was not granted. `result` is the result of the refresh that preceded it,
        if any."""
        outcome = reading.outcome
        if outcome is TokenOutcome.UNAUTHENTICATED:
            return UnauthenticatedError("The service key is not valid.")
        if outcome is TokenOutcome.STALE:
            return unavailable(result)
        return _REFUSALS[outcome](extra=self._refusal_members(request, reading))

    def _refusal_members(self, request: TokenRequest, reading: TokenReading) -> JSONObject:
        members: dict[str, Any] = {}
        if reading.outcome in {TokenOutcome.NEEDS_REAUTH, TokenOutcome.REVOKED}:
            members["reason"] = reading.status_reason
        if reading.outcome is TokenOutcome.INSUFFICIENT_SCOPE:
            wanted = self.providers.get(request.provider).config.normalise(request.scopes)
            members["missing_scopes"] = sorted(set(wanted) - set(reading.granted_scopes))
        if reading.outcome in _WITH_RECONNECT_URL:
            members["reconnect_url"] = self.links.url(request.provider, request.scopes)
        return members

    async def _open(self, request: TokenRequest, reading: TokenReading) -> str:
        integration_id = present(reading.integration_id)
        binding = token_binding(reading.user_id, integration_id, TokenKind.ACCESS)
        try:
            return self.vault.open(present(reading.ciphertext), binding, present(reading.key_version))
        except PoisonedCiphertextError:
            await self._refuse_poisoned(request, reading)

    async def _refuse_poisoned(self, request: TokenRequest, reading: TokenReading) -> NoReturn:
        """Set an integration whose token is damaged to needs_reauth, record the read with that outcome, and raise
        NeedsReauthError.

        Raises KeyUnavailableError, and marks nothing, if more integrations would be marked in a minute than the vault's
        limit; ProviderUnavailableError if the token has been replaced meanwhile.
        """
        if not self.vault.poison_guard.may_mark(present(reading.integration_id)):
            raise KeyUnavailableError
        reason = ReauthReason.TOKEN_UNREADABLE
        url = self.links.url(request.provider, request.scopes)
        actor = Principal(PrincipalKind.SERVICE, str(reading.client_id))
        async with self.unit_of_work(actor) as uow:
            integration_id, version = present(reading.integration_id), present(reading.token_version)
            integration = IntegrationVersion(integration_id, version)
            marked = await self.status.mark_needs_reauth(uow, integration, reason)
            if not marked and await integration_queries.has_moved(uow.connection, integration_id, version):
                # A reconnect or a refresh came between, and has replaced the unreadable token.
                raise ProviderUnavailableError("The integration has just changed; ask again.")
            await TokenRead.objects.create(
                id=uuid7(),
                read_at=self.clock.now(),
                client_id=reading.client_id,
                key_id=reading.key_id,
                user_id=reading.user_id,
                provider=request.provider,
                integration_id=reading.integration_id,
                outcome=TokenOutcome.NEEDS_REAUTH.value,
                # The scopes are recorded under our names, as the door records them.
                scopes=list(self.providers.get(request.provider).config.normalise(request.scopes)),
                reason=request.reason,
                request_id=current_context().request_id,
            )
            raise uow.keep(NeedsReauthError(extra={"reason": reason.value, "reconnect_url": url}))


def unavailable(result: RefreshResult | None) -> ApplicationError:
    """Return the error for a caller whose token has too little life left and was not refreshed:
    ProviderMisconfiguredError if the provider refuses our client, otherwise ProviderUnavailableError. `result` is the
    refresh's result; None if there was no refresh or it did not end in time."""
    if result is not None and result.outcome is RefreshOutcome.MISCONFIGURED:
        return ProviderMisconfiguredError()
    return ProviderUnavailableError(retry_after=1 if result is None else math.ceil(result.retry_after_seconds))


def present(value: Value | None) -> Value:
    """Return a column that the token read statement always fills for this outcome; raise RuntimeError if it is None."""
    if value is None:
        raise RuntimeError("the token read statement left out a column")
    return value
