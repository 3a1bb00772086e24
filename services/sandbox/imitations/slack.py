"""Slack's quirks (OAuth v2): https://docs.slack.dev/authentication/installing-with-oauth."""

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
"""Marks the scopes of the bot among those of a grant; Slack keeps two lists."""
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
"""Why a bearer token is refused → Slack's code; anything else is a revocation."""


class SlackSettings(ProviderSettings):
    """What a test may set."""

    access_token_lifetime_seconds: int = Field(default=12 * 3600, ge=1)
    token_rotation: bool = False
    """Tokens live 12 hours and come with refresh tokens for a single use."""


def user_id_of(account: Account) -> str:
    """Slack's id of a person."""
    return f"U{hashlib.sha256(account.id.encode()).hexdigest()[:10].upper()}"


def team_of(account: Account) -> dict[str, str]:
    """The workspace: one per e-mail domain."""
    domain = account.email.rpartition("@")[2].lower()
    return {"id": f"T{hashlib.sha256(domain.encode()).hexdigest()[:10].upper()}", "name": domain}


def _is_bots(scopes: str) -> bool:
    return scopes.startswith(BOT)


class Slack(Persona):
    """Everything with status 200; the person's token and the bot's side by side."""

    settings: SlackSettings
    extra_parameters = ("user_scope", "team")
    sends_issuer = False

    def __init__(self, base_url: str) -> None:
        issuer = f"{base_url}/as/slack.com"
        super().__init__("slack", party="slack", issuer=issuer, kind="strict", settings=SlackSettings())

    def requested_scopes(self, form: Form) -> tuple[str, ...]:
        """`user_scope` for the person, `scope` for the bot. Raises `OAuthError` invalid_scope."""
        users = self.parse_scopes(form.get("user_scope") or "")
        bots = tuple(f"{BOT}{scope}" for scope in self.parse_scopes(form.get("scope") or ""))
        scopes = users + bots
        if not scopes or not all(self.is_scope(scope) for scope in scopes):
            raise OAuthError("invalid_scope", "unknown or no scope")
        return scopes

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Separated by commas or spaces."""
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
        """Tell whether a refresh token comes along, by the app's settings."""
        return self.settings.token_rotation

    def token_scopes(self, scopes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The person's token, then the bot's; either may be missing."""
        users = tuple(scope for scope in scopes if not _is_bots(scope))
        bots = tuple(scope for scope in scopes if _is_bots(scope))
        return tuple(part for part in (users, bots) if part) or ((),)

    def access_token_lifetime(self, *, offline: bool) -> int | None:
        """Return the lifetime of an access token; without rotation it does not run out."""
        return self.settings.access_token_lifetime_seconds if offline else None

    def successor(self, token: RefreshToken, *, now: float) -> RefreshToken | None:  # noqa: ARG002  at any time
        """Return the next refresh token; each is for a single use."""
        return use_up(token)

    def token_prefixes(self, scopes: tuple[str, ...]) -> tuple[str, str]:
        """Return prefixes that look like Slack's, and say that they are none."""
        kind = "xoxb" if scopes and _is_bots(scopes[0]) else "xoxp"
        rotating = "xoxe." if self.settings.token_rotation else ""
        return f"{rotating}{kind}-{ACCESS_TOKEN_PREFIX}", f"xoxe-1-{REFRESH_TOKEN_PREFIX}"

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """The person's token in `authed_user`, the bot's at the top."""
        user: IssuedTokens | None = None if _is_bots(tokens.scope) else tokens
        bot = tokens if user is None else tokens.also
        authed_user = {"id": user_id_of(account)} | (_token_members(user) if user else {})
        return self._installation(account) | {"authed_user": authed_user} | (_token_members(bot) if bot else {})

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the token at the top of the answer, whether it is the person's or the bot's."""
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
        """The answer of `openid.connect.userInfo`."""
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
        """Return the grant type; Slack asks for none with a code."""
        return super().grant_type(form) or ("authorization_code" if "code" in form else None)

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Slack's own codes, all with status 200."""
        error = _ERRORS.get(refusal.error, refusal.error)
        if refusal.error == "invalid_grant":
            error = _ERRORS.get(refusal.cause, _ERRORS["refresh"])
        elif refusal.error == "invalid_token":
            error = _DEAD_TOKENS.get(refusal.cause, "token_revoked")
        elif refusal.status == 401 and refusal.error == "invalid_request":
            error = "not_authed"
        return OAuthError(error, refusal.description, status=200, cause=refusal.cause, members=refusal.members)

    def error_status(self, error: str) -> int:
        """Return the status of an error: 200, but for too many requests."""
        return 429 if error == "ratelimited" else 200

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """No description, and no standard member but the code."""
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
