"""The sandbox's imitation of Slack, with what Slack's OAuth v2 does differently from the standards:
https://docs.slack.dev/authentication/installing-with-oauth."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from services.sandbox.forms import Form
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX, RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.rotation import use_up
from services.sandbox.oidc.settings import ProviderSettings

BOT = "bot:"
"""Prefix that marks the bot's scopes among those of a consent, since Slack keeps two lists."""
APP_ID = "ASANDBOX"
_SCOPE = re.compile(r"[a-z_.-]+(:[a-z_.]+)*")
_ERRORS = {
    "invalid_client": "bad_client_secret",
    "code": "invalid_code",
    "code_used": "code_already_used",
    "redirect_uri": "bad_redirect_uri",
    "refresh": "invalid_refresh_token",
    "invalid_request": "invalid_arguments",
}
_DEAD_TOKENS = {"unknown": "invalid_auth", "expired": "token_expired", "account_inactive": "account_inactive"}
"""Why an access token is refused → Slack's code for it; for any other cause the code is `token_revoked`."""


class SlackSettings(ProviderSettings):
    """Settings of Slack, which tests may change."""

    access_token_lifetime_seconds: int = Field(default=12 * 3600, ge=1)
    token_rotation: bool = False
    """Whether access tokens expire (by default after 12 hours), and come with refresh tokens for a single use."""


def user_id_of(account: Account) -> str:
    """Return Slack's id of a person."""
    return f"U{hashlib.sha256(account.id.encode()).hexdigest()[:10].upper()}"


def team_of(account: Account) -> dict[str, str]:
    """Return the workspace of an account; there is one for each e-mail domain."""
    domain = account.email.rpartition("@")[2].lower()
    return {"id": f"T{hashlib.sha256(domain.encode()).hexdigest()[:10].upper()}", "name": domain}


def _is_bots(scopes: str) -> bool:
    return scopes.startswith(BOT)


class Slack(Persona):
    """Slack: errors have status 200, and one answer holds both the person's token and the bot's."""

    settings: SlackSettings
    extra_parameters = ("user_scope", "team")
    sends_issuer = False

    def __init__(self, base_url: str) -> None:
        issuer = f"{base_url}/as/slack.com"
        super().__init__("slack", party="slack", issuer=issuer, kind="strict", settings=SlackSettings())

    def requested_scopes(self, form: Form) -> tuple[str, ...]:
        """Return the person's scopes (`user_scope`), then the bot's (`scope`) with the prefix `BOT`.

        Raises `OAuthError` invalid_scope if there are none, or one does not look like a scope.
        """
        users = self.parse_scopes(form.get("user_scope") or "")
        bots = tuple(f"{BOT}{scope}" for scope in self.parse_scopes(form.get("scope") or ""))
        scopes = users + bots
        if not scopes or not all(self.is_scope(scope) for scope in scopes):
            raise OAuthError("invalid_scope", "no scope, or an unknown one")
        return scopes

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes of a text that separates them by commas or spaces."""
        return super().parse_scopes(text.replace(",", " "))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the text looks like a scope."""
        return _SCOPE.fullmatch(scope) is not None

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],  # noqa: ARG002  Slack does not go by scopes
        parameters: Mapping[str, str],  # noqa: ARG002  nor by parameters
        *,
        consented_before: bool,  # noqa: ARG002  it does not matter here
    ) -> bool:
        """Tell whether the client gets a refresh token, which depends on the setting `token_rotation` alone."""
        return self.settings.token_rotation

    def token_scopes(self, scopes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return the scopes of the person's token, then those of the bot's token, which keep the prefix `BOT`. A token
        without scopes is left out; if there are no scopes at all, the person's token is there without any."""
        users = tuple(scope for scope in scopes if not _is_bots(scope))
        bots = tuple(scope for scope in scopes if _is_bots(scope))
        return tuple(part for part in (users, bots) if part) or ((),)

    def access_token_lifetime(self, *, offline: bool) -> int | None:
        """Return the lifetime in seconds of an access token that comes with a refresh token (`offline`); `None` for any
        other, which does not expire."""
        return self.settings.access_token_lifetime_seconds if offline else None

    def successor(self, token: RefreshToken, *, now: float) -> RefreshToken | None:  # noqa: ARG002  the time does not matter
        """Return a new refresh token, and end the presented one."""
        return use_up(token)

    def token_prefixes(self, scopes: tuple[str, ...]) -> tuple[str, str]:
        """Return the prefixes of access and refresh tokens: Slack's own, followed by the sandbox's."""
        kind = "xoxb" if scopes and _is_bots(scopes[0]) else "xoxp"
        rotating = "xoxe." if self.settings.token_rotation else ""
        return f"{rotating}{kind}-{ACCESS_TOKEN_PREFIX}", f"xoxe-1-{REFRESH_TOKEN_PREFIX}"

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer with the person's token in `authed_user` and the bot's at the top."""
        user: IssuedTokens | None = None if _is_bots(tokens.scope) else tokens
        bot = tokens if user is None else tokens.also
        authed_user = {"id": user_id_of(account)} | (_token_members(user) if user else {})
        return self._installation(account) | {"authed_user": authed_user} | (_token_members(bot) if bot else {})

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer with the token at the top, whether it is the person's or the bot's."""
        return self._installation(account) | _token_members(tokens)

    def _installation(self, account: Account) -> dict[str, Any]:
        return {
            "ok": True,
            "app_id": APP_ID,
            "team": team_of(account),
            "enterprise": None,
            "is_enterprise_install": False,
        }

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """Return what the Web API's method `openid.connect.userInfo` answers."""
        claims: dict[str, Any] = {
            "ok": True,
            "sub": user_id_of(account),
            "https://slack.com/user_id": user_id_of(account),
            "https://slack.com/team_id": team_of(account)["id"],
        }
        if "email" in scopes:
            claims |= {"email": account.email, "email_verified": True}
        if "profile" in scopes:
            claims["name"] = account.name
        return claims

    def grant_type(self, form: Form) -> str | None:
        """Return the grant type, which a client of Slack's may leave out when it sends a code; `None` if the request
        has neither."""
        return super().grant_type(form) or ("authorization_code" if "code" in form else None)

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return the refusal as Slack sends it: always with status 200, and with Slack's own code instead of the
        standard one where Slack has one."""
        error = _ERRORS.get(refusal.error, refusal.error)
        if refusal.error == "invalid_grant":
            error = _ERRORS.get(refusal.cause, _ERRORS["refresh"])
        elif refusal.error == "invalid_token":
            error = _DEAD_TOKENS.get(refusal.cause, "token_revoked")
        elif refusal.status == 401 and refusal.error == "invalid_request":
            error = "not_authed"
        return OAuthError(error, refusal.description, status=200, cause=refusal.cause, members=refusal.members)

    def error_status(self, error: str) -> int:
        """Return the status of a scripted error: 200, or 429 for `ratelimited`."""
        return 429 if error == "ratelimited" else 200

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """Return the body of an error: `ok`, the code, and the refusal's members, but no description."""
        return {"ok": False, "error": refusal.error, **refusal.members}


def _token_members(tokens: IssuedTokens) -> dict[str, Any]:
    bots = _is_bots(tokens.scope)
    members = {
        "access_token": tokens.access_token,
        "token_type": "bot" if bots else "user",
        "scope": ",".join(scope.removeprefix(BOT) for scope in tokens.scope.split()),
        "bot_user_id": "USANDBOXBOT" if bots else None,
        "refresh_token": tokens.refresh_token,
        "expires_in": tokens.expires_in,
    }
    return {name: value for name, value in members.items() if value is not None}
