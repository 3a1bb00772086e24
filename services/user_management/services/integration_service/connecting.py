"""Connections: starting one, what the provider brings back, and the confirmation by the user who started."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.ids import uuid7
from services.user_management.core.pagination import Page
from services.user_management.database import Database
from services.user_management.enums import EventType, FlowStatus, IntegrationStatus, ProviderErrorKind, ReauthReason
from services.user_management.exceptions import (
    FlowNotFoundError,
    FlowRefusedError,
    NotConnectedError,
    PoisonedCiphertextError,
    ProviderAnswerError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    UserNotFoundError,
    ValidationFailedError,
)
from services.user_management.integrations.oauth_client import (
    Account,
    OAuthClient,
    ProviderCallError,
    TokenGrant,
    error_code,
)
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.models import Integration, OAuthFlow
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import oauth_flow as flow_queries
from services.user_management.queries import token_activity as activity_queries
from services.user_management.queries.integration import Connected
from services.user_management.queries.oauth_flow import ConsumedFlow
from services.user_management.schemas.integration import (
    AuthorizeRequest,
    AuthorizeResponse,
    ConfirmRequest,
    IntegrationList,
    IntegrationResponse,
    ProviderList,
    ProviderResponse,
)
from services.user_management.schemas.token import TokenReadEntry
from services.user_management.security.signing import Signer, pkce_challenge, random_token, sha256
from services.user_management.services.integration_status_service import ConnectionVersion, IntegrationStatusTracker
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


@dataclass(frozen=True, slots=True)
class ProviderReturn:
    """What the provider's redirect carried (RFC 6749 section 4.1.2, `iss` per RFC 9207)."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


class IntegrationService:
    """A user's connections."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        oauth: OAuthClient,
        vault: VaultService,
        status: IntegrationStatusTracker,
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
        self._signer = signer
        self._policy = policy
        self._clock = clock

    def list_providers(self) -> ProviderList:
        """What can be connected, and what each scope is for."""
        return ProviderList(
            items=[
                ProviderResponse(
                    name=provider.name,
                    display_name=provider.config.display_name,
                    scopes=provider.config.scopes,
                    required_scopes=list(provider.config.required_scopes),
                )
                for provider in self._providers
            ]
        )

    async def list_integrations(self, user_id: str) -> IntegrationList:
        """The user's connections, the disconnected ones left out."""
        rows = (
            await Integration.objects.filter(user_id=user_id)
            .exclude(status=IntegrationStatus.DISCONNECTED.value)
            .order_by(["provider", "-is_primary", "connected_at"])
            .all()
        )
        return IntegrationList(items=[IntegrationResponse.model_validate(row) for row in rows])

    async def get_integration(self, user_id: str, provider: str) -> IntegrationResponse:
        """The user's primary connection to `provider`. Raises UnknownProviderError or NotConnectedError."""
        self._providers.get(provider)
        row = await Integration.objects.get_or_none(user_id=user_id, provider=provider, is_primary=True)
        if row is None:
            raise NotConnectedError
        return IntegrationResponse.model_validate(row)

    async def list_activity(
        self, user_id: str, provider: str, *, limit: int, cursor: str | None
    ) -> Page[TokenReadEntry]:
        """Which service read the user's tokens, when and why; the newest first. Raises UnknownProviderError."""
        self._providers.get(provider)
        scope = f"activity:{user_id}:{provider}"
        before = UUID(self._signer.decode_cursor(scope, cursor)[0]) if cursor else None
        async with self._database.reading() as connection:
            rows = await activity_queries.token_reads(
                connection, user_id=user_id, provider=provider, before=before, limit=limit + 1
            )
        items = [TokenReadEntry.model_validate(dict(row)) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next_cursor=self._signer.encode_cursor(scope, [str(items[-1].id)]) if more else None)

    async def start_connection(self, user_id: str, provider_name: str, request: AuthorizeRequest) -> AuthorizeResponse:
        """Begin a connect attempt that only `user_id` can finish.

        Raises UnknownProviderError, ValidationFailedError (scopes, return_url), UserNotFoundError.
        """
        provider = self._providers.get(provider_name)
        scopes = self._requested_scopes(provider, request.scopes)
        return_url = request.return_url or self._policy.return_urls[0]
        if return_url not in self._policy.return_urls:
            raise ValidationFailedError("return_url is not on the list of allowed URLs.")
        state = random_token()
        state_hash = sha256(state)
        flow_id = uuid7()
        now = self._clock.now()
        redirect_uri = f"{self._policy.public_url.rstrip('/')}/oauth/callback/{provider.name}"

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
        url = self._oauth.authorization_url(
            provider,
            redirect_uri=redirect_uri,
            state=state,
            scopes=scopes,
            code_challenge=pkce_challenge(self._signer.pkce_verifier(state_hash)) if provider.config.pkce else None,
            login_hint=request.login_hint,
        )
        return AuthorizeResponse(authorization_url=url, flow_id=flow_id, expires_at=now + FLOW_LIFETIME)

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
        error = self._return_error(provider, returned)
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
        code = request.code or self._open_code(user_id, flow)
        grant, account = await self._exchange(provider, flow, code)

        async with self._unit_of_work() as uow:
            if not await integration_queries.lock_active_user(uow.connection, user_id):
                raise UserNotFoundError
            scopes = grant.scopes if grant.scopes is not None else flow.requested_scopes
            connected = await integration_queries.connect(
                uow.connection,
                user_id=user_id,
                provider=provider.name,
                account=(account.id, account.email),
                scopes=scopes,
            )
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
            await self._degrade_without_refresh_token(uow, connected, grant)
        row = await Integration.objects.get(id=connected.id)
        return IntegrationResponse.model_validate(row)

    def _requested_scopes(self, provider: Provider, wanted: Iterable[str]) -> tuple[str, ...]:
        known = set(provider.config.scopes) | set(provider.config.required_scopes)
        unknown = sorted(set(wanted) - known)
        if unknown:
            raise ValidationFailedError(f"{provider.name} has no scope {', '.join(unknown)}.")
        return tuple(sorted({*provider.config.required_scopes, *wanted}))

    def _return_error(self, provider: Provider, returned: ProviderReturn) -> str | None:
        """Why the return cannot be used. A wrong `iss` is a mix-up attack (RFC 9207 section 2.4)."""
        if returned.issuer is not None and returned.issuer != provider.config.issuer:
            return "issuer_mismatch"
        if returned.error is not None:
            return error_code(returned.error)
        return None if returned.code else "no_code"

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
            return grant, await self._oauth.fetch_account(provider, grant.access_token)
        except ProviderCallError as error:
            log.warning("connect.exchange_failed", provider=provider.name, reason=error.code)
            raise _exchange_problem(error) from None

    async def _degrade_without_refresh_token(self, uow: UnitOfWork, connected: Connected, grant: TokenGrant) -> None:
        """Connected, but only until the access token runs out: say so at once."""
        if grant.lifetime_seconds is None:
            return
        if not await integration_queries.has_refresh_token(uow.connection, connected.id):
            connection = ConnectionVersion(connected.id, connected.token_version)
            await self._status.mark_degraded(uow, connection, ReauthReason.NO_REFRESH_TOKEN)


def _exchange_problem(error: ProviderCallError) -> Exception:
    extra: dict[str, Any] = {"reason": error.code}
    if error.kind is ProviderErrorKind.OPERATOR:
        return ProviderMisconfiguredError(extra=extra)
    if error.kind is ProviderErrorKind.REAUTH:
        return FlowRefusedError("The provider refused the code; start the connection again.", extra=extra)
    if not error.outcome_unknown:
        return ProviderUnavailableError("The provider does not answer; start the connection again.", extra=extra)
    return ProviderAnswerError(extra=extra)
