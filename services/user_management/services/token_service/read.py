"""A usable access token for a sibling service, or one honest refusal."""

from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeVar
from urllib.parse import quote

from services.user_management.core.clock import Clock
from services.user_management.core.context import act_as, current_context
from services.user_management.core.ids import uuid7
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database
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
from services.user_management.queries.token_read import TokenQuery, TokenReading, read_token
from services.user_management.schemas.token import TokenRequest, TokenResponse
from services.user_management.services.integration_status_service import ConnectionVersion, IntegrationStatusTracker
from services.user_management.services.service_client_service import KeyUsage, ServiceCredential
from services.user_management.services.token_service.refresh import RefreshOutcome, RefreshResult, TokenRefresher
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

Value = TypeVar("Value")

DEFAULT_TTL_SECONDS: Final = 300.0
"""Wanted life of a token when the caller does not say."""
MINIMUM_TTL_SECONDS: Final = 30.0
"""What is still handed out when the provider cannot be asked for a newer one."""
DOOR_TIMEOUT_SECONDS: Final = 2.0

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


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Settings of the token API."""

    default_issuer: str
    connect_url: str
    """Template with {provider} and {scopes}."""


class TokenService:
    """The internal token API."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        refresher: TokenRefresher,
        vault: VaultService,
        status: IntegrationStatusTracker,
        key_usage: KeyUsage,
        policy: TokenPolicy,
        clock: Clock,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._refresher = refresher
        self._vault = vault
        self._status = status
        self._key_usage = key_usage
        self._policy = policy
        self._clock = clock

    async def get_valid_token(self, credential: ServiceCredential, request: TokenRequest) -> TokenResponse:
        """A token that lives long enough, refreshed first if need be.

        Raises one error of the table in the API documentation; every answer but `unauthenticated` and 503 is recorded.
        """
        query = self._query(credential, request)
        reading = await self._read(query)
        result: RefreshResult | None = None
        if reading.outcome is TokenOutcome.STALE:
            result, reading = await self._renew(query, reading)
        if reading.outcome is not TokenOutcome.GRANTED:
            self._refuse(request, reading, result)
        await self._key_usage.record(credential.key_id)
        access_token = await self._open(request, reading)
        return TokenResponse(
            access_token=access_token,
            expires_at=reading.expires_at,
            expires_in=None if reading.remaining_seconds is None else int(reading.remaining_seconds),
            scopes=list(reading.granted_scopes),
            provider=request.provider,
            account=str(reading.account),
            integration_id=_present(reading.integration_id),
            refreshed=result is not None and result.outcome is RefreshOutcome.REFRESHED,
        )

    def _query(self, credential: ServiceCredential, request: TokenRequest) -> TokenQuery:
        known = request.provider in self._providers
        scopes = " ".join(request.scopes)
        return TokenQuery(
            key_id=credential.key_id,
            secret_hash=credential.secret_hash,
            user=request.user_id,
            default_issuer=self._policy.default_issuer,
            provider=request.provider,
            provider_known=known,
            scopes=self._providers.get(request.provider).config.parse_scopes(scopes) if known else (),
            account=request.account,
            reason=request.reason,
            demanded_seconds=request.min_ttl_seconds,
            default_seconds=DEFAULT_TTL_SECONDS,
            request_id=current_context().request_id,
        )

    async def _read(self, query: TokenQuery) -> TokenReading:
        return await read_token(self._database.door, query, timeout_seconds=DOOR_TIMEOUT_SECONDS)

    async def _renew(self, query: TokenQuery, stale: TokenReading) -> tuple[RefreshResult, TokenReading]:
        """Refresh, then pass the same door again. When the provider cannot be asked, a soft demand is lowered."""
        result = await self._refresher.refresh(_present(stale.integration_id), _present(stale.token_version))
        failed = result.outcome in {RefreshOutcome.UNAVAILABLE, RefreshOutcome.MISCONFIGURED}
        again = replace(query, default_seconds=MINIMUM_TTL_SECONDS) if failed else query
        return result, await self._read(again)

    def _refuse(self, request: TokenRequest, reading: TokenReading, result: RefreshResult | None) -> NoReturn:
        outcome = reading.outcome
        if outcome is TokenOutcome.UNAUTHENTICATED:
            raise UnauthenticatedError("The service key is not valid.")
        if outcome is TokenOutcome.STALE:
            if result is not None and result.outcome is RefreshOutcome.MISCONFIGURED:
                raise ProviderMisconfiguredError
            retry_after = 1 if result is None else round(result.retry_after_seconds)
            raise ProviderUnavailableError(retry_after=retry_after)
        raise _REFUSALS[outcome](extra=self._refusal_members(request, reading))

    def _refusal_members(self, request: TokenRequest, reading: TokenReading) -> dict[str, object]:
        members: dict[str, object] = {}
        if reading.outcome in {TokenOutcome.NEEDS_REAUTH, TokenOutcome.REVOKED}:
            members["reason"] = reading.status_reason
        if reading.outcome is TokenOutcome.INSUFFICIENT_SCOPE:
            wanted = self._providers.get(request.provider).config.parse_scopes(" ".join(request.scopes))
            members["missing_scopes"] = sorted(set(wanted) - set(reading.granted_scopes))
        if reading.outcome in _WITH_RECONNECT_URL:
            members["reconnect_url"] = self.reconnect_url(request.provider, request.scopes)
        return members

    def reconnect_url(self, provider: str, scopes: list[str]) -> str:
        """Where the product sends its user to connect again."""
        template = self._policy.connect_url.replace("{provider}", quote(provider, safe=""))
        return template.replace("{scopes}", quote(" ".join(scopes), safe=""))

    async def _open(self, request: TokenRequest, reading: TokenReading) -> str:
        integration_id = _present(reading.integration_id)
        binding = token_binding(reading.user_id, integration_id, TokenKind.ACCESS)
        try:
            return self._vault.open(_present(reading.ciphertext), binding, _present(reading.key_version))
        except PoisonedCiphertextError:
            await self._refuse_poisoned(request, reading)

    async def _refuse_poisoned(self, request: TokenRequest, reading: TokenReading) -> NoReturn:
        """The row is unreadable under a proven key: this connection alone needs its user, and the record says so."""
        if not self._vault.poison_guard.may_mark(_present(reading.integration_id)):
            raise KeyUnavailableError
        reason = ReauthReason.TOKEN_UNREADABLE
        url = self.reconnect_url(request.provider, request.scopes)
        actor = Principal(PrincipalKind.SERVICE, str(reading.client_id))
        act_as(actor)
        async with self._unit_of_work() as uow:
            integration_id, version = _present(reading.integration_id), _present(reading.token_version)
            connection = ConnectionVersion(integration_id, version)
            marked = await self._status.mark_needs_reauth(uow, connection, reason)
            if not marked and await integration_queries.has_moved(uow.connection, integration_id, version):
                # A reconnect or a refresh came between: what was unreadable is no longer there.
                raise ProviderUnavailableError("The connection has just changed; ask again.")
            await TokenRead.objects.create(
                id=uuid7(),
                read_at=self._clock.now(),
                client_id=reading.client_id,
                key_id=reading.key_id,
                user_id=reading.user_id,
                provider=request.provider,
                integration_id=reading.integration_id,
                outcome=TokenOutcome.NEEDS_REAUTH.value,
                scopes=request.scopes,
                reason=request.reason,
                request_id=current_context().request_id,
            )
            raise uow.keep(NeedsReauthError(extra={"reason": reason.value, "reconnect_url": url}))


def _present(value: Value | None) -> Value:
    """A column that the statement always fills for this outcome."""
    if value is None:
        raise RuntimeError("the token read statement left out a column")
    return value
