"""Connecting: the start, what the provider brings back, and the confirmation by the user who started."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.ids import uuid7
from services.user_management.database import Database
from services.user_management.enums import EventType, FlowStatus, IntegrationStatus, ProviderErrorKind, ReauthReason
from services.user_management.exceptions import (
    FlowNotFoundError,
    FlowRefusedError,
    PoisonedCiphertextError,
    ProviderAnswerError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    UserNotFoundError,
    ValidationFailedError,
)
from services.user_management.integrations.oauth_client import Account, OAuthClient, TokenGrant
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import ProviderCallError, error_code
from services.user_management.models import OAuthFlow
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import oauth_flow as flow_queries
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries.integration import Connected, Consent
from services.user_management.queries.oauth_flow import ConsumedFlow
from services.user_management.schemas.integration import (
    AuthorizeRequest,
    AuthorizeResponse,
    ConfirmRequest,
    IntegrationResponse,
)
from services.user_management.security.signing import Signer, pkce_challenge, random_token, sha256
from services.user_management.services.integration_service.connections import IntegrationService
from services.user_management.services.integration_status_service import (
    SERVING,
    ConnectionVersion,
    IntegrationStatusTracker,
)
from services.user_management.services.token_service.storage import store_tokens
from services.user_management.services.vault_service import VaultService, code_binding
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

_DEAD: Final = (IntegrationStatus.NEEDS_REAUTH, IntegrationStatus.REVOKED, IntegrationStatus.DISCONNECTED)
FLOW_LIFETIME: Final = timedelta(minutes=10)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectPolicy:
    """Settings of the connect flow."""

    public_url: str
    return_urls: tuple[str, ...]
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProviderReturn:
    """What the provider's redirect carried (RFC 6749 section 4.1.2, `iss` per RFC 9207)."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


@dataclass(frozen=True, slots=True)
class _Addressed:
    """The connection that an attempt is about."""

    account_email: str | None
    granted: frozenset[str]
    has_usable_refresh_token: bool

    def covers(self, scopes: tuple[str, ...]) -> bool:
        """Whether we can do without the consent being shown: we hold a refresh token that is good for `scopes`."""
        return self.has_usable_refresh_token and self.granted.issuperset(scopes)


class ConnectFlows:
    """Connect attempts, from the first request to the stored tokens."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        oauth: OAuthClient,
        vault: VaultService,
        status: IntegrationStatusTracker,
        integrations: IntegrationService,
        signer: Signer,
        policy: ConnectPolicy,
        clock: Clock,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._oauth = oauth
        self._vault = vault
        self._status = status
        self._integrations = integrations
        self._signer = signer
        self._policy = policy
        self._clock = clock

    async def start_connection(self, user_id: str, provider_name: str, request: AuthorizeRequest) -> AuthorizeResponse:
        """Begin a connect attempt that only `user_id` can finish.

        Raises UnknownProviderError, ValidationFailedError (scopes, return_url, redirect_uri), UserNotFoundError,
        ProviderUnavailableError and ProviderMisconfiguredError for a provider whose endpoints cannot be discovered.
        """
        provider = self._providers.get(provider_name)
        addressed = await self._addressed(user_id, provider, request)
        scopes = _requested_scopes(provider, request.scopes, addressed)
        return_url, redirect_uri = self._ways_back(provider, request)
        state = random_token()
        state_hash = sha256(state)
        try:
            url = await self._oauth.authorization_url(
                provider,
                redirect_uri=redirect_uri,
                state=state,
                scopes=scopes,
                code_challenge=pkce_challenge(self._signer.pkce_verifier(state_hash)) if provider.config.pkce else None,
                nonce=self._nonce(provider, state_hash),
                login_hint=request.login_hint or (addressed.account_email if addressed else None),
                ask_consent=addressed is None or not addressed.covers(scopes),
            )
        except ProviderCallError as error:
            raise _exchange_problem(error) from None
        flow_id = uuid7()
        now = self._clock.now()

        async with self._unit_of_work() as uow:
            if not await integration_queries.lock_active_user(uow.connection, user_id):
                raise UserNotFoundError
            await OAuthFlow.objects.create(
                id=flow_id,
                user_id=user_id,
                provider=provider.name,
                state_hash=state_hash,
                status=FlowStatus.PENDING.value,
                requested_scopes=list(scopes),
                redirect_uri=redirect_uri,
                return_url=return_url,
                created_at=now,
                expires_at=now + FLOW_LIFETIME,
            )
            uow.audit("integration.connect_started", target=("oauth_flow", str(flow_id)), user_id=user_id)
        return AuthorizeResponse(authorization_url=url, flow_id=flow_id, expires_at=now + FLOW_LIFETIME)

    async def _addressed(self, user_id: str, provider: Provider, request: AuthorizeRequest) -> _Addressed | None:
        """The connection that is to be renewed or widened; None: there is none, or one more account is wanted."""
        if request.new_account:
            return None
        async with self._database.reading() as connection:
            row = await integration_queries.find_shown(
                connection, user_id=user_id, provider=provider.name, account=request.account
            )
        if row is None:
            return None
        serving = row["status"] in SERVING and row["has_refresh_token"]
        return _Addressed(row["account_email"], frozenset(row["granted_scopes"]), has_usable_refresh_token=serving)

    def _ways_back(self, provider: Provider, request: AuthorizeRequest) -> tuple[str, str]:
        """(return URL, redirect URI): both exactly as they were allowed."""
        return_url = request.return_url or self._policy.return_urls[0]
        if return_url not in self._policy.return_urls:
            raise ValidationFailedError("return_url is not on the list of allowed URLs.")
        if request.redirect_uri is None:
            return return_url, f"{self._policy.public_url.rstrip('/')}/oauth/callback/{provider.name}"
        if request.redirect_uri not in self._policy.redirect_uris:
            raise ValidationFailedError("redirect_uri is not on the list of allowed URIs.")
        return return_url, request.redirect_uri

    def _nonce(self, provider: Provider, state_hash: bytes) -> str | None:
        return self._signer.nonce(state_hash) if provider.config.nonce else None

    async def record_provider_return(self, provider_name: str, returned: ProviderReturn) -> str:
        """Keep the code on the flow and say where the browser goes. Exchanges nothing: nobody is signed in here.

        The browser takes the flow's ticket along. Without it the flow cannot be confirmed, so whoever started a flow
        and made somebody else consent in another browser gains nothing by it.

        Raises UnknownProviderError, FlowNotFoundError.
        """
        provider = self._providers.get(provider_name)
        flow = await OAuthFlow.objects.get_or_none(
            state_hash=sha256(returned.state), provider=provider.name, status=FlowStatus.PENDING.value
        )
        if flow is None:
            raise FlowNotFoundError
        error = _return_error(provider, returned)
        sealed: tuple[bytes, int] | None = None
        if error is None and returned.code is not None:
            version = await self._vault.active_version()
            sealed = (self._vault.seal(returned.code, code_binding(flow.user_id, flow.id), version), version)

        async with self._unit_of_work() as uow:
            if not await flow_queries.record_return(uow.connection, flow.id, code=sealed, error=error):
                raise FlowNotFoundError
            target = ("oauth_flow", str(flow.id))
            uow.audit("integration.provider_returned", target=target, user_id=flow.user_id)
        parameters = {"flow": self._signer.flow_ticket(flow.id)} | ({"error": error} if error else {})
        separator = "&" if "?" in flow.return_url else "?"
        return f"{flow.return_url}{separator}{urlencode(parameters)}"

    async def confirm_connection(
        self, user_id: str, provider_name: str, request: ConfirmRequest
    ) -> IntegrationResponse:
        """Finish what this very user started: use up the flow, exchange the code, store the tokens.

        Raises UnknownProviderError, FlowNotFoundError (also for somebody else's flow), FlowRefusedError,
        ProviderUnavailableError, ProviderMisconfiguredError, ProviderAnswerError.
        """
        provider = self._providers.get(provider_name)
        key_version = await self._vault.active_version()
        flow = await self._consume(user_id, provider, request)
        if flow.error is not None:
            raise FlowRefusedError(extra={"reason": flow.error})
        if request.code is not None and (mix_up := _issuer_error(provider, request.iss)) is not None:
            raise FlowRefusedError(extra={"reason": mix_up})
        code = request.code or self._open_code(user_id, flow)
        grant, account = await self._exchange(provider, flow, code)
        consent = Consent(
            account_id=account.id,
            account_email=account.email,
            granted=provider.config.granted(grant.scopes, flow.requested_scopes),
            requested=flow.requested_scopes,
            clock_skew_seconds=account.clock_skew_seconds,
        )

        async with self._unit_of_work() as uow:
            if not await integration_queries.lock_active_user(uow.connection, user_id):
                raise UserNotFoundError
            connected = await integration_queries.connect(
                uow.connection, user_id=user_id, provider=provider.name, consent=consent
            )
            await revocation_queries.supersede(uow.connection, connected.id)
            if connected.former_status in _DEAD:
                # Google gives no new refresh token with a repeated consent, and then the old one stays; but not one
                # that was refused or given up.
                await integration_queries.forget_refresh_token(uow.connection, connected.id)
            await store_tokens(
                uow, self._vault, grant, user_id=user_id, integration_id=connected.id, key_version=key_version
            )
            self._status.record(
                uow,
                EventType.INTEGRATION_CONNECTED,
                integration_id=connected.id,
                user_id=user_id,
                provider=provider.name,
            )
            missing = provider.config.missing_required(consent.granted)
            await self._qualify(uow, connected, missing=missing, grant=grant)
        return await self._integrations.get_integration(user_id, provider.name, account.id)

    async def _consume(self, user_id: str, provider: Provider, request: ConfirmRequest) -> ConsumedFlow:
        """In a transaction of its own: once used up, a flow stays used up, whatever the provider says next."""
        flow_id = self._signer.read_flow_ticket(request.flow) if request.flow else None
        state_hash = sha256(request.state) if request.state else None
        async with self._unit_of_work() as uow:
            flow = await flow_queries.consume(
                uow.connection,
                user_id=user_id,
                provider=provider.name,
                flow_id=flow_id,
                state_hash=state_hash,
            )
            if flow is None:
                raise FlowNotFoundError
            uow.audit("integration.connect_confirmed", target=("oauth_flow", str(flow.id)), user_id=user_id)
        return flow

    def _open_code(self, user_id: str, flow: ConsumedFlow) -> str:
        if flow.code_ciphertext is None or flow.code_key_version is None:
            raise FlowNotFoundError
        try:
            return self._vault.open(flow.code_ciphertext, code_binding(user_id, flow.id), flow.code_key_version)
        except PoisonedCiphertextError:
            log.error("connect.code_unreadable", flow_id=str(flow.id))  # noqa: TRY400 - the cause is in the event
            raise FlowNotFoundError from None

    async def _exchange(self, provider: Provider, flow: ConsumedFlow, code: str) -> tuple[TokenGrant, Account]:
        verifier = self._signer.pkce_verifier(flow.state_hash) if provider.config.pkce else None
        try:
            grant = await self._oauth.exchange_code(
                provider, code=code, redirect_uri=flow.redirect_uri, code_verifier=verifier
            )
            account = await self._oauth.fetch_account(provider, grant, nonce=self._nonce(provider, flow.state_hash))
        except ProviderCallError as error:
            log.warning("connect.exchange_failed", provider=provider.name, reason=error.code, detail=error.detail)
            raise _exchange_problem(error) from None
        return grant, account

    async def _qualify(self, uow: UnitOfWork, connected: Connected, *, missing: list[str], grant: TokenGrant) -> None:
        """Step: connected, but: without what is required, or only until the access token runs out. Said at once."""
        connection = ConnectionVersion(connected.id, connected.token_version)
        if missing:
            await self._status.mark_needs_reauth(uow, connection, ReauthReason.SCOPE_MISSING)
        elif grant.lifetime_seconds is not None and not await integration_queries.has_refresh_token(
            uow.connection, connected.id
        ):
            await self._status.mark_degraded(uow, connection, ReauthReason.NO_REFRESH_TOKEN)


def _requested_scopes(provider: Provider, wanted: Iterable[str], addressed: _Addressed | None) -> tuple[str, ...]:
    """What is required, what is wanted, and, so that nothing is lost by widening, what was granted before."""
    known = set(provider.config.scopes) | set(provider.config.required_scopes)
    chosen = set(provider.config.normalise(wanted))
    unknown = sorted(chosen - known)
    if unknown:
        raise ValidationFailedError(f"{provider.name} has no scope {', '.join(unknown)}.")
    former = addressed.granted & known if addressed is not None else frozenset[str]()
    return tuple(sorted({*provider.config.required_scopes, *chosen, *former}))


def _return_error(provider: Provider, returned: ProviderReturn) -> str | None:
    """Why the return cannot be used."""
    if (mix_up := _issuer_error(provider, returned.issuer)) is not None:
        return mix_up
    if returned.error is not None:
        return error_code(returned.error)
    return None if returned.code else "no_code"


def _issuer_error(provider: Provider, issuer: str | None) -> str | None:
    """A wrong `iss`, or none from who always names it, is a mix-up attack (RFC 9207 section 2.4)."""
    if issuer is None:
        return "issuer_missing" if provider.config.answers_iss else None
    return None if issuer == provider.config.issuer else "issuer_mismatch"


def _exchange_problem(error: ProviderCallError) -> Exception:
    extra: dict[str, Any] = {"reason": error.code}
    if error.kind is ProviderErrorKind.OPERATOR:
        return ProviderMisconfiguredError(extra=extra)
    if error.kind in {ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED, ProviderErrorKind.UNKNOWN}:
        return FlowRefusedError("The provider refused the code; start the connection again.", extra=extra)
    if not error.outcome_unknown:
        return ProviderUnavailableError("The provider does not answer; start the connection again.", extra=extra)
    return ProviderAnswerError(extra=extra)
