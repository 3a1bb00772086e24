"""The OAuth 2.0 client side of a provider: authorization URL, code exchange, refresh, user info.

Every failure is one `ProviderCallError`, which says who has to act and whether the provider may have done it anyway.
"""

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind
from services.user_management.http_client import NOT_SENT, HttpClient, TransportError, send
from services.user_management.integrations.oauth_config import Provider
from services.user_management.utils.strict_json import storable

CALL_TIMEOUT_SECONDS: Final = 8.0
"""In total, with connecting and reading; below the drain of a stopping process (9 s) and the lease (30 s)."""
POOL_TIMEOUT: Final = "pool_timeout"
"""Code of the one failure that is ours: all our connections were busy."""
_MALFORMED_LIFETIME_SECONDS: Final = 600
_MAX_ACCOUNT_ID_CHARACTERS: Final = 255
_MAX_EMAIL_CHARACTERS: Final = 320
_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class ProviderCallError(Exception):
    """A call to a provider failed.

    `code` is the provider's error code or our word for the failure. `outcome_unknown` means that the request may have
    been carried out although no usable answer came.
    """

    def __init__(
        self, kind: ProviderErrorKind, code: str, *, outcome_unknown: bool = False, retry_after: float | None = None
    ) -> None:
        self.kind = kind
        self.code = code
        self.outcome_unknown = outcome_unknown
        self.retry_after = retry_after
        super().__init__(f"{kind}: {code}")


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """A token answer (RFC 6749 section 5.1). `sent_at` is in monotonic seconds."""

    access_token: str
    refresh_token: str | None
    lifetime_seconds: float | None
    """Life of the access token from the moment the request was sent; None: it does not run out."""
    scopes: tuple[str, ...] | None
    """None when the answer names none, which means: as requested."""
    sent_at: float

    @property
    def is_expired(self) -> bool:
        """The access token has no life, says the provider; a refresh token that came with it is as good as ever."""
        return self.lifetime_seconds is not None and self.lifetime_seconds <= 0


@dataclass(frozen=True, slots=True)
class Account:
    """Whose connection it is, at the provider."""

    id: str
    email: str | None


class OAuthClient:
    """Speaks to any provider that a file describes."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    def authorization_url(
        self,
        provider: Provider,
        *,
        redirect_uri: str,
        state: str,
        scopes: tuple[str, ...],
        code_challenge: str | None,
        login_hint: str | None,
    ) -> str:
        """Where to send the browser (RFC 6749 section 4.1.1, PKCE per RFC 7636 section 4.3)."""
        parameters = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": provider.config.scope_separator.join(scopes),
            "state": state,
            **provider.config.authorization_parameters,
        }
        if code_challenge is not None:
            parameters |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
        if login_hint is not None:
            parameters["login_hint"] = login_hint
        endpoint = provider.config.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters, quote_via=quote)}"

    async def exchange_code(
        self, provider: Provider, *, code: str, redirect_uri: str, code_verifier: str | None
    ) -> TokenGrant:
        """Authorization code → tokens (RFC 6749 section 4.1.3). Raises ProviderCallError."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if code_verifier is not None:
            form["code_verifier"] = code_verifier
        return await self._token_request(provider, form)

    async def refresh(self, provider: Provider, *, refresh_token: str) -> TokenGrant:
        """Refresh token → access token, maybe a new refresh token (RFC 6749 section 6). Raises ProviderCallError."""
        return await self._token_request(provider, {"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def fetch_account(self, provider: Provider, access_token: str) -> Account:
        """Who the token speaks for (OpenID Connect Core section 5.3). Raises ProviderCallError."""
        request = self._http.build_request(
            "GET", provider.config.userinfo_endpoint, headers={"Authorization": f"Bearer {access_token}"}
        )
        status, _, body = await self._call(request)
        claims = _json_object(body)
        if status != 200:
            raise _refusal(provider, status, claims, {})
        account_id = claims.get(provider.config.userinfo.account_id)
        if not _is_account_id(account_id):
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, "no_account_id")
        email = claims.get(provider.config.userinfo.email or "")
        usable = isinstance(email, str) and len(email) <= _MAX_EMAIL_CHARACTERS
        return Account(id=str(account_id), email=email if usable else None)

    async def _token_request(self, provider: Provider, form: dict[str, str]) -> TokenGrant:
        headers = {}
        client_id, client_secret = provider.client_id, provider.client_secret.get_secret_value()
        if provider.config.client_authentication == "client_secret_basic":
            # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
            pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client_id, "client_secret": client_secret}
        request = self._http.build_request("POST", provider.config.token_endpoint, data=form, headers=headers)
        sent_at = self._clock.monotonic()
        status, response_headers, body = await self._call(request)
        answer = _json_object(body)
        access_token = answer.get("access_token")
        if status == 200 and isinstance(access_token, str) and access_token:
            return _grant(provider, answer, access_token, sent_at)
        raise _refusal(provider, status, answer, response_headers)

    async def _call(self, request: Any) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                response, body = await send(self._http, request)
        except NOT_SENT as error:
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, _snake(error)) from None
        except (TransportError, TimeoutError) as error:
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, _snake(error), outcome_unknown=True) from None
        return response.status_code, response.headers, body


def error_code(text: str) -> str:
    """A provider's `error`, fit to be stored and shown: users, audit rows and events are told it."""
    return text if _ERROR_CODE.fullmatch(text) else "unknown_error"


def _is_account_id(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    return 0 < len(str(value)) <= _MAX_ACCOUNT_ID_CHARACTERS


def _snake(error: Exception) -> str:
    """`ReadTimeout` → `read_timeout`, as the failure's name in rows and logs."""
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; empty for anything else, such as a proxy's HTML page. Read leniently: a detail that
    strict JSON forbids is no reason to lose a rotated refresh token."""
    try:
        document = storable(json.loads(body))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _grant(provider: Provider, answer: dict[str, Any], access_token: str, sent_at: float) -> TokenGrant:
    refresh_token = answer.get("refresh_token")
    scope = answer.get("scope")
    return TokenGrant(
        access_token=access_token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        lifetime_seconds=_lifetime(answer.get("expires_in"), provider.config.default_lifetime_seconds),
        scopes=provider.config.parse_scopes(scope) if isinstance(scope, str) and scope.strip() else None,
        sent_at=sent_at,
    )


def _lifetime(expires_in: Any, default: int | None) -> float | None:
    """Seconds the access token lives. The answer is kept even when this member is nonsense: refusing it could cost a
    rotated refresh token. Nonsense counts as a short life, so that the next refresh comes soon; zero and less means
    what it says, a token that is not handed out."""
    if expires_in is None:
        return default
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return _MALFORMED_LIFETIME_SECONDS
    if seconds <= 0:
        return 0.0
    return seconds if seconds < 10**9 else _MALFORMED_LIFETIME_SECONDS


def _refusal(provider: Provider, status: int, answer: dict[str, Any], headers: Mapping[str, str]) -> ProviderCallError:
    code = answer.get("error")
    retry_after = headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isdecimal() else None
    if status == 429 or status >= 500:
        name = error_code(code) if isinstance(code, str) else f"http_{status}"
        # A gateway may answer 5xx after the provider has rotated the token; 429 is said before anything is done.
        return ProviderCallError(ProviderErrorKind.TRANSIENT, name, outcome_unknown=status >= 500, retry_after=seconds)
    kind = provider.config.error_kind(code) if isinstance(code, str) else None
    if kind is not None:
        return ProviderCallError(kind, error_code(str(code)))
    # A success without a token, a page of HTML, an error nobody knows: nothing that should cost a user a connection.
    return ProviderCallError(
        ProviderErrorKind.TRANSIENT,
        error_code(code) if isinstance(code, str) else f"unreadable_http_{status}",
        outcome_unknown=status == 200,
    )
