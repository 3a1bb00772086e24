"""The client side of OAuth 2.0 for any provider that a file describes.

Every failure is raised as a `ProviderCallError`, which says who has to act and whether the provider may have carried
out the request anyway.
"""

from collections.abc import Callable
from enum import StrEnum
from urllib.parse import quote, urlencode

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind
from services.user_management.http_client import HttpClient
from services.user_management.integrations.discovery import Discovery
from services.user_management.integrations.oauth_config import Provider
from services.user_management.integrations.provider_account import ACCESS_TOKEN_REFUSED, Account, AccountReader
from services.user_management.integrations.provider_answer import is_refusal, refusal
from services.user_management.integrations.provider_calls import (
    CALL_TIMEOUT_SECONDS,
    ProviderCalls,
    Request,
    always,
    basic_authentication,
)
from services.user_management.integrations.provider_errors import (
    NO_USERINFO_ENDPOINT,
    REVOCATION_IMPOSSIBLE,
    ProviderCallError,
)
from services.user_management.integrations.provider_gate import ProviderGate
from services.user_management.integrations.provider_sections import Revocation
from services.user_management.integrations.token_answer import TokenAnswer, read_token_answer
from services.user_management.security.id_token import IdTokenVerifier

__all__ = [
    "ACCESS_TOKEN_REFUSED",
    "CALL_TIMEOUT_SECONDS",
    "Account",
    "OAuthClient",
    "ProviderCallError",
    "RevocationOutcome",
    "TokenAnswer",
]


class RevocationOutcome(StrEnum):
    """How a revocation that raised no error ended; in either case the token no longer works."""

    REVOKED = "revoked"
    ALREADY_GONE = "already_gone"
    """The provider knows no such token."""


class OAuthClient:
    """Calls the OAuth endpoints of any provider that a file describes."""

    def __init__(self, http: HttpClient, clock: Clock, *, gate: ProviderGate | None = None) -> None:
        self.gate = gate or ProviderGate(clock)
        self._calls = ProviderCalls(http=http, clock=clock, gate=self.gate)
        self._discovery = Discovery(http, clock)
        self._accounts = AccountReader(calls=self._calls, id_tokens=IdTokenVerifier(http, clock))

    async def authorization_url(
        self,
        provider: Provider,
        *,
        redirect_uri: str,
        state: str,
        scopes: tuple[str, ...],
        code_challenge: str | None,
        login_hint: str | None,
        nonce: str | None = None,
        ask_consent: bool = True,
    ) -> str:
        """Build the URL to send the browser to (RFC 6749 section 4.1.1, PKCE per RFC 7636 section 4.3).

        `ask_consent` adds the parameters that make the provider show its consent page. Raises ProviderCallError when
        the provider's endpoints cannot be discovered.
        """
        config = provider.config
        endpoint = (await self._discovery.endpoints(config)).authorization
        parameters = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect_uri,
            config.scope_parameter: config.scope_separator.join(scopes),
            "state": state,
            **config.authorization_parameters,
        }
        if ask_consent:
            parameters |= config.consent_for(scopes)
        if code_challenge is not None:
            parameters |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
        if nonce is not None:
            parameters["nonce"] = nonce
        if login_hint is not None and config.login_hint_parameter:
            parameters[config.login_hint_parameter] = login_hint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters, quote_via=quote)}"

    async def answers_iss(self, provider: Provider) -> bool:
        """Tell whether an authorization answer of this provider must be refused if it does not name its issuer (RFC
        9207). False if only the provider's published document could say so, and it cannot be fetched."""
        return await self._discovery.answers_iss(provider.config)

    async def exchange_code(
        self, provider: Provider, *, code: str, redirect_uri: str, code_verifier: str | None
    ) -> TokenAnswer:
        """Exchange an authorization code for tokens (RFC 6749 section 4.1.3). Raises ProviderCallError."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if code_verifier is not None:
            form["code_verifier"] = code_verifier
        return await self._token_request(provider, form, always, is_refresh=False)

    async def refresh(
        self, provider: Provider, *, refresh_token: str, may_send: Callable[[], bool] = always
    ) -> TokenAnswer:
        """Exchange a refresh token for an access token and maybe a new refresh token (RFC 6749 section 6).

        `may_send` is called just before sending, once the limit on calls to this provider allows the call; if it
        returns False, nothing is sent. Raises ProviderCallError, in that case too.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._token_request(provider, form, may_send, is_refresh=True)

    async def fetch_account(self, provider: Provider, answer: TokenAnswer, *, nonce: str | None = None) -> Account:
        """Find out whose account the tokens belong to; `nonce` is that of the authorization request, None if it had
        none. Raises ProviderCallError."""
        endpoints = await self._discovery.endpoints(provider.config)
        return await self._accounts.read(provider, endpoints, answer, nonce)

    async def probe(self, provider: Provider, access_token: str) -> None:
        """Check that the access token works, by asking the user-info endpoint. Raises ProviderCallError: of the kind
        REAUTH, with the code ACCESS_TOKEN_REFUSED, if the token does not work."""
        endpoints = await self._discovery.endpoints(provider.config)
        if endpoints.userinfo is None:
            raise ProviderCallError(ProviderErrorKind.OPERATOR, NO_USERINFO_ENDPOINT)
        await self._accounts.ask(provider, endpoints.userinfo, access_token)

    async def revoke(self, provider: Provider, *, token: str) -> RevocationOutcome:
        """Revoke `token`. If we hold a token of the kind that the provider's file names (`revocation.token`), it should
        be that one. Raises ProviderCallError; its code is REVOCATION_IMPOSSIBLE if the provider has no way to
        revoke."""
        revocation = (await self._discovery.endpoints(provider.config)).revocation
        if revocation is None:
            raise ProviderCallError(ProviderErrorKind.UNKNOWN, REVOCATION_IMPOSSIBLE)
        answer = (await self._calls.send(provider, _revocation_request(provider, revocation, token))).answer
        document = answer.members()
        if 200 <= answer.status < 300 and not is_refusal(document):
            return RevocationOutcome.REVOKED
        if document.get("error") in revocation.gone_codes or answer.status in revocation.gone_statuses:
            return RevocationOutcome.ALREADY_GONE
        if answer.status == 401 and revocation.authentication.startswith("client_secret"):
            raise ProviderCallError(ProviderErrorKind.OPERATOR, "invalid_client", answered=True)
        raise refusal(provider.config, answer)

    async def _token_request(
        self, provider: Provider, form: dict[str, str], may_send: Callable[[], bool], *, is_refresh: bool
    ) -> TokenAnswer:
        endpoint = (await self._discovery.endpoints(provider.config)).token
        headers: dict[str, str] = {}
        if provider.config.client_authentication == "client_secret_basic":
            headers["Authorization"] = basic_authentication(provider)
        else:
            form |= _client_parameters(provider)
        request = Request("POST", endpoint, headers, form=form)
        answered = await self._calls.send(provider, request, may_send=may_send)
        answer = read_token_answer(provider.config, answered.answer, sent_at=answered.sent_at, is_refresh=is_refresh)
        if answer is None:
            raise refusal(provider.config, answered.answer)
        return answer


def _revocation_request(provider: Provider, revocation: Revocation, token: str) -> Request:
    members = {revocation.token_member: token} if revocation.token_member else {}
    headers: dict[str, str] = {}
    match revocation.authentication:
        case "client_secret_basic":
            headers["Authorization"] = basic_authentication(provider)
        case "client_secret_post":
            members |= _client_parameters(provider)
        case "bearer":
            headers["Authorization"] = f"Bearer {token}"
        case "none":
            pass
    if revocation.body == "json":
        return Request(revocation.method, revocation.endpoint, headers, json=members)
    return Request(revocation.method, revocation.endpoint, headers, form=members)


def _client_parameters(provider: Provider) -> dict[str, str]:
    return {"client_id": provider.client_id, "client_secret": provider.client_secret.get_secret_value()}
