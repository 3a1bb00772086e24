"""The first half of a connect attempt (a flow): its start, and the return of the browser from the provider."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.ids import uuid7
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.enums import FlowStatus
from services.user_management.exceptions import (
    FlowNotFoundError,
    NotConnectedError,
    UserNotFoundError,
    ValidationFailedError,
)
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.models import OAuthFlow
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import oauth_flow as flow_queries
from services.user_management.schemas.integration import (
    AuthorizeRequest,
    AuthorizeResponse,
)
from services.user_management.security.signing import Signer, pkce_challenge, random_token, sha256
from services.user_management.services.integration_service.provider_returns import (
    ProviderReturn,
    exchange_problem,
    return_error,
)
from services.user_management.services.integration_status_service import SERVING
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.vault_service import VaultService, code_binding
from services.user_management.unit_of_work import UnitOfWorkFactory

FLOW_LIFETIME: Final = timedelta(minutes=10)
FLOW_PRUNING: Final = Pruning(timedelta(days=1), flow_queries.prune)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectPolicy:
    """Settings of connect attempts: the URLs to which our callback may send the browser, the redirect URIs that a front
    end may name, and our public URL."""

    public_url: str
    return_urls: tuple[str, ...]
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Addressed:
    """The existing integration that a connect attempt is to renew, or extend by more scopes."""

    account_email: str | None
    granted: frozenset[str]
    has_usable_refresh_token: bool

    def covers(self, scopes: tuple[str, ...]) -> bool:
        """Tell whether the stored refresh token is usable and has all of `scopes`, so that the provider need not issue
        another one."""
        return self.has_usable_refresh_token and self.granted.issuperset(scopes)


@dataclass(kw_only=True, eq=False)
class ConnectFlows:
    """Begins connect attempts, and records the browser's return from the provider."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    oauth: OAuthClient
    vault: VaultService
    signer: Signer
    policy: ConnectPolicy
    clock: Clock

    async def start_integration(
        self, actor: Principal, user_id: str, provider_name: str, request: AuthorizeRequest
    ) -> AuthorizeResponse:
        """Begin a connect attempt that only `user_id` can finish; return the provider's URL to open, and the deadline.

        Raises UnknownProviderError; NotConnectedError for an account that is not connected; UserNotFoundError if the
        user is not active; ValidationFailedError for a scope, return_url or redirect_uri that is not allowed; and the
        errors of `exchange_problem` if the provider's endpoints cannot be discovered.
        """
        provider = self.providers.get(provider_name)
        addressed = await self._addressed(user_id, provider, request)
        scopes = _requested_scopes(provider, request.scopes, addressed)
        return_url, redirect_uri = self._ways_back(provider, request)
        state = random_token()
        state_hash = sha256(state)
        try:
            url = await self.oauth.authorization_url(
                provider,
                redirect_uri=redirect_uri,
                state=state,
                scopes=scopes,
                code_challenge=pkce_challenge(self.signer.pkce_verifier(state_hash)) if provider.config.pkce else None,
                nonce=self._nonce(provider, state_hash),
                login_hint=request.login_hint or (addressed.account_email if addressed else None),
                # Where each refresh token works once, a refresh may be using ours right now. A consent that brings no
                # new one would leave us with the used one.
                ask_consent=provider.config.rotates or addressed is None or not addressed.covers(scopes),
            )
        except ProviderCallError as error:
            raise exchange_problem(error) from None
        flow_id = uuid7()
        now = self.clock.now()

        async with self.unit_of_work(actor) as uow:
            if not await integration_queries.lock_active_user(uow.connection, user_id):
                raise UserNotFoundError
            await flow_queries.make_room(uow.connection, user_id=user_id, provider=provider.name)
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
        """Find the integration that is to be renewed or extended: that of the account in `request`, or the primary one.
        Returns None if the user has no integration with the provider, or wants to connect one more account. Raises
        NotConnectedError if `request` names an account that is not connected."""
        if request.new_account:
            return None
        async with self.database.reading() as connection:
            row = await integration_queries.find_shown(
                connection, user_id=user_id, provider=provider.name, account=request.account
            )
        if row is None and request.account is not None:
            raise NotConnectedError("That account is not connected; leave it out to connect one more.")
        if row is None:
            return None
        serving = row.status in SERVING and row.has_refresh_token
        return _Addressed(row.account_email, frozenset(row.granted_scopes), has_usable_refresh_token=serving)

    def _ways_back(self, provider: Provider, request: AuthorizeRequest) -> tuple[str, str]:
        """Return (return URL, redirect URI): those of the request, or the first allowed URL and our own callback.
        Raises ValidationFailedError for one that is not literally in the settings."""
        return_url = request.return_url or self.policy.return_urls[0]
        if return_url not in self.policy.return_urls:
            raise ValidationFailedError("return_url is not on the list of allowed URLs.")
        if request.redirect_uri is None:
            return return_url, f"{self.policy.public_url.rstrip('/')}/oauth/callback/{provider.name}"
        if request.redirect_uri not in self.policy.redirect_uris:
            raise ValidationFailedError("redirect_uri is not on the list of allowed URIs.")
        return return_url, request.redirect_uri

    def _nonce(self, provider: Provider, state_hash: bytes) -> str | None:
        return self.signer.nonce(state_hash) if provider.config.nonce else None

    async def record_provider_return(self, actor: Principal, provider_name: str, returned: ProviderReturn) -> str:
        """Store the authorization code, or the error, with the flow, and return the URL to which the browser goes next.
        The code is not exchanged here, since nobody is signed in.

        The URL carries the flow's ticket, without which the flow cannot be confirmed. So an attacker who starts a flow
        and makes somebody else consent in another browser gains nothing.

        Raises UnknownProviderError, FlowNotFoundError if no flow waits for this return, KeyUnavailableError.
        """
        provider = self.providers.get(provider_name)
        flow = await OAuthFlow.objects.get_or_none(
            state_hash=sha256(returned.state), provider=provider.name, status=FlowStatus.PENDING.value
        )
        if flow is None:
            raise FlowNotFoundError
        error = await return_error(self.oauth, provider, returned)
        sealed: tuple[bytes, int] | None = None
        if error is None and returned.code is not None:
            version = await self.vault.active_version()
            sealed = (self.vault.seal(returned.code, code_binding(flow.user_id, flow.id), version), version)

        async with self.unit_of_work(actor) as uow:
            if not await flow_queries.record_return(uow.connection, flow.id, code=sealed, error=error):
                raise FlowNotFoundError
            target = ("oauth_flow", str(flow.id))
            uow.audit("integration.provider_returned", target=target, user_id=flow.user_id)
        parameters = {"flow": self.signer.flow_ticket(flow.id)} | ({"error": error} if error else {})
        separator = "&" if "?" in flow.return_url else "?"
        return f"{flow.return_url}{separator}{urlencode(parameters)}"


def _requested_scopes(provider: Provider, wanted: Iterable[str], addressed: _Addressed | None) -> tuple[str, ...]:
    """Return the scopes to ask the provider for: the required ones, the wanted ones, and those of the existing
    integration that the provider's file still lists, so that it keeps them. Raises ValidationFailedError for a wanted
    scope that the file does not list."""
    known = set(provider.config.scopes) | set(provider.config.required_scopes)
    chosen = set(provider.config.normalise(wanted))
    unknown = sorted(chosen - known)
    if unknown:
        raise ValidationFailedError(f"{provider.name} has no scope {', '.join(unknown)}.")
    former = addressed.granted & known if addressed is not None else frozenset[str]()
    return tuple(sorted({*provider.config.required_scopes, *chosen, *former}))
