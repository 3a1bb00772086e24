"""The sandbox's imitation of GitHub, with what GitHub's OAuth does differently from the standards:
https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import Response
from pydantic import Field

from services.sandbox.forms import FORM_TYPE, Form
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.errors import NOT_STORED, OAuthError
from services.sandbox.oidc.grants import RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.rotation import use_up
from services.sandbox.oidc.settings import DAY_SECONDS, ProviderSettings

REFRESH_TOKEN_DAYS = 184
"""About six months: 15897600 seconds in GitHub's answers."""
_SCOPE = re.compile(r"[a-z_]+(:[a-z_]+)?")
_INCLUDED = {
    "user": {"read:user", "user:email", "user:follow"},
    "repo": {"public_repo", "repo:status", "repo_deployment", "repo:invite", "security_events"},
    "admin:org": {"write:org", "read:org"},
    "write:org": {"read:org"},
}
"""Scope → the scopes that it includes. A consent to the scope does not name them."""
_ERRORS = {
    "invalid_client": ("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect."),
    "code": ("bad_verification_code", "The code passed is incorrect or expired."),
    "redirect_uri": ("redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL."),
    "refresh": ("bad_refresh_token", "The refresh token passed is incorrect or expired."),
}


class GitHubSettings(ProviderSettings):
    """Settings of GitHub, which tests may change."""

    access_token_lifetime_seconds: int = Field(default=8 * 3600, ge=1)
    expiring_tokens: bool = False
    """Whether the app's user tokens expire (by default after 8 hours), and come with a refresh token that each refresh
    replaces."""
    public_email: bool = False
    """Whether people show their e-mail address on their profile."""
    extra_scopes: tuple[str, ...] = ()
    """Scopes that are granted although nobody asked for them."""
    withheld_scopes: tuple[str, ...] = ()
    """Scopes that are not granted although the request asks for them."""


def number_of(account: Account) -> int:
    """Return the account's `id`, which is a number at GitHub."""
    return int.from_bytes(hashlib.sha256(account.id.encode()).digest()[:4], "big")


class GitHub(Persona):
    """GitHub: errors have status 200, answers are forms unless JSON is asked for, and access tokens expire only if they
    come with a refresh token."""

    settings: GitHubSettings
    extra_parameters = ("login",)
    login_hint_parameter = "login"
    one_access_token = True
    bearer_schemes = frozenset({"bearer", "token"})

    def __init__(self, base_url: str) -> None:
        issuer = f"{base_url}/as/github.com/login/oauth"
        super().__init__("github", party="github", issuer=issuer, kind="strict", settings=GitHubSettings())

    def requested_scopes(self, form: Form) -> tuple[str, ...]:
        """Return the scopes of the request, of which there may be none. What does not look like a scope is ignored."""
        return tuple(scope for scope in self.parse_scopes(form.get("scope") or "") if self.is_scope(scope))

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes of a text that separates them by spaces or commas."""
        return super().parse_scopes(text.replace(",", " "))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the text looks like a scope."""
        return _SCOPE.fullmatch(scope) is not None

    def consented_scopes(
        self,
        ticked: tuple[str, ...],
        parameters: Mapping[str, str],  # noqa: ARG002  GitHub has none
        *,
        earlier: tuple[str, ...],  # noqa: ARG002  each token has its own scopes
    ) -> tuple[str, ...]:
        """Return the scopes that the person ticked and the setting `extra_scopes`, without `withheld_scopes` and
        without those that another scope includes."""
        wanted = [
            scope for scope in (*ticked, *self.settings.extra_scopes) if scope not in self.settings.withheld_scopes
        ]
        included = {part for scope in wanted for part in _INCLUDED.get(scope, ())}
        return tuple(dict.fromkeys(scope for scope in wanted if scope not in included))

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],
        parameters: Mapping[str, str],  # noqa: ARG002  GitHub has none
        *,
        consented_before: bool,  # noqa: ARG002  it does not matter here
    ) -> bool:
        """Tell whether the client gets a refresh token: if the app's tokens expire, or the scopes hold
        `offline_access`."""
        return self.settings.expiring_tokens or "offline_access" in scopes

    def access_token_lifetime(self, *, offline: bool) -> int | None:
        """Return the lifetime in seconds of an access token that comes with a refresh token (`offline`); `None` for any
        other, which does not expire."""
        return self.settings.access_token_lifetime_seconds if offline else None

    def refresh_token_ends_at(self, token: RefreshToken) -> float | None:
        """Return when the token expires (monotonic time): six months after it was issued."""
        return token.issued_at + REFRESH_TOKEN_DAYS * DAY_SECONDS

    def successor(self, token: RefreshToken, *, now: float) -> RefreshToken | None:  # noqa: ARG002  the time does not matter
        """Return a new refresh token, and end the presented one."""
        return use_up(token)

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer with scopes separated by commas, without `offline_access`, and with the type `bearer`."""
        scope = ",".join(scope for scope in tokens.scope.split() if scope != "offline_access")
        return super().exchange_answer(tokens, account) | {"token_type": "bearer", "scope": scope}

    def grant_type(self, form: Form) -> str | None:
        """Return the grant type, which a client of GitHub's may leave out when it sends a code; `None` if the request
        has neither."""
        return super().grant_type(form) or ("authorization_code" if "code" in form else None)

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return the refusal with status 200, and with GitHub's own code and description where GitHub has them."""
        key = refusal.error
        if key == "invalid_grant":
            key = {"code_used": "code"}.get(refusal.cause, refusal.cause)
            key = key if key in _ERRORS else "refresh"
        error, description = _ERRORS.get(key, (refusal.error, refusal.description))
        return OAuthError(error, description, status=200, cause=refusal.cause)

    def error_status(self, error: str) -> int:  # noqa: ARG002  the same for every error
        """Return 200: GitHub reports errors in the body alone."""
        return 200

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """Return the error body, with the address of a page about it."""
        return super().error_body(refusal) | {"error_uri": "https://docs.github.com/apps"}

    def encoded(
        self,
        body: dict[str, Any],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        accept: str = "",
    ) -> Response:
        """Return the body as a form, or as JSON if `accept` names `application/json`."""
        if "application/json" in accept:
            return super().encoded(body, status=status, headers=headers, accept=accept)
        return Response(urlencode(body), status, NOT_STORED | dict(headers or {}), media_type=FORM_TYPE)
