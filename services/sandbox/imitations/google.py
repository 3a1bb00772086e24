"""Google's quirks: https://developers.google.com/identity/protocols/oauth2/web-server."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from services.sandbox.errors import SandboxError
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens, account_claims
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.settings import DAY_SECONDS, ProviderSettings
from services.sandbox.providers import CLIENT_ID

LEGACY_ISSUER = "accounts.google.com"
TESTING_DAYS = 7
IDLE_DAYS = 180
"""Six months."""
_PREFIX = "https://www.googleapis.com/auth/"
_ALIASES = {f"{_PREFIX}userinfo.email": "email", f"{_PREFIX}userinfo.profile": "profile"}
_LONG_NAMES = {short: long for long, short in _ALIASES.items()}
_POLICY_SUBTYPES = frozenset({"invalid_rapt", "admin_policy_enforced"})
"""Reasons of a revocation that Google tells in `error_subtype`."""


class GoogleSettings(ProviderSettings):
    """What a test may set."""

    testing: bool = False
    """The app's publishing status is "Testing": refresh tokens live 7 days."""
    time_based_access_days: float | None = Field(default=None, gt=0)
    """The person allowed access for so long and no longer."""
    legacy_issuer: bool = False
    """ID tokens say `accounts.google.com`."""
    org_internal: bool = False
    """The app is internal to an organisation that nobody here belongs to."""
    refresh_token_limit: int = Field(default=100, ge=1)


class Google(Persona):
    """One refresh token per consent that is never rotated, and scopes that come back under other names."""

    settings: GoogleSettings
    extra_parameters = ("access_type", "include_granted_scopes")
    seeding_parameters: Mapping[str, str] = {"access_type": "offline", "prompt": "consent"}
    sends_issuer = False
    revokes_account = True

    def __init__(self, base_url: str) -> None:
        issuer = f"{base_url}/as/accounts.google.com"
        super().__init__("google", party="google", issuer=issuer, kind="static", settings=GoogleSettings())

    def check_person(self) -> None:
        """Google shows this on a page of its own; nothing goes back to the client."""
        if self.settings.org_internal:
            raise SandboxError(403, "Error 403: org_internal")

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """The long spelling of `email` and `profile` means the same."""
        return tuple(dict.fromkeys(_ALIASES.get(scope, scope) for scope in text.split()))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the scope is on offer; `offline_access` is none of Google's."""
        return scope in {"openid", "email", "profile"} or scope.startswith(_PREFIX)

    def consented_scopes(
        self, ticked: tuple[str, ...], parameters: Mapping[str, str], *, earlier: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Incremental authorization adds what was granted earlier."""
        merges = parameters.get("include_granted_scopes") == "true"
        return tuple(dict.fromkeys(ticked + earlier)) if merges else ticked

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],  # noqa: ARG002  Google does not go by scopes
        parameters: Mapping[str, str],
        *,
        consented_before: bool,
    ) -> bool:
        """Offline access alone, and after the first consent only where consent is asked for again."""
        asks_again = "consent" in parameters.get("prompt", "").split()
        return parameters.get("access_type") == "offline" and (asks_again or not consented_before)

    def refresh_tokens_per_account(self) -> int | None:
        """Return how many refresh tokens an account may have; the oldest dies without a word."""
        return self.settings.refresh_token_limit

    def refresh_token_ends_at(self, token: RefreshToken) -> float | None:
        """Grants end by themselves in Testing, or where the person gave access for a time."""
        days = TESTING_DAYS if self.settings.testing else self.settings.time_based_access_days
        return None if days is None else token.issued_at + days * DAY_SECONDS

    def refresh_token_problem(self, token: RefreshToken, *, now: float) -> str | None:
        """Six months without use also end it."""
        idle = now - token.used_at >= IDLE_DAYS * DAY_SECONDS
        return super().refresh_token_problem(token, now=now) or ("idle" if idle else None)

    def id_token_issuer(self, account: Account) -> str:
        """Return the issuer with or without a scheme; OpenID Connect at Google allows both."""
        return LEGACY_ISSUER if self.settings.legacy_issuer else super().id_token_issuer(account)

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """Return the usual claims, and the client that asked."""
        return account_claims(account, scopes) | {"azp": CLIENT_ID}

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Scopes under their long names, in an order that is not that of the request."""
        names = [_LONG_NAMES.get(scope, scope) for scope in tokens.scope.split()]
        shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        return super().exchange_answer(tokens, account) | {"scope": " ".join(shuffled)}

    def translated(self, refusal: OAuthError) -> OAuthError:
        """All deaths of a refresh token look alike, but for an administrator's policies."""
        if refusal.error != "invalid_grant":
            return refusal
        if refusal.cause in _POLICY_SUBTYPES:
            subtype = {"error_subtype": refusal.cause}
            return OAuthError("invalid_grant", "reauth related error", cause=refusal.cause, members=subtype)
        asked_badly = refusal.cause in {"code", "code_used", "redirect_uri", "unknown"}
        description = "Bad Request" if asked_badly else "Token has been expired or revoked."
        return OAuthError("invalid_grant", description, cause=refusal.cause)
