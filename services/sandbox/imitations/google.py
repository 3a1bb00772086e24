"""The sandbox's imitation of Google, with what Google's OAuth does differently from the standards:
https://developers.google.com/identity/protocols/oauth2/web-server."""

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
"""Days without use after which a refresh token ends: six months."""
_PREFIX = "https://www.googleapis.com/auth/"
_ALIASES = {f"{_PREFIX}userinfo.email": "email", f"{_PREFIX}userinfo.profile": "profile"}
_LONG_NAMES = {short: long for long, short in _ALIASES.items()}
_POLICY_SUBTYPES = frozenset({"invalid_rapt", "admin_policy_enforced"})
"""Reasons for a revocation that Google names in `error_subtype`."""


class GoogleSettings(ProviderSettings):
    """Settings of Google, which tests may change."""

    testing: bool = False
    """Whether the app's publishing status is "Testing", in which refresh tokens live 7 days."""
    time_based_access_days: float | None = Field(default=None, gt=0)
    """How many days the person allows access for; `None` for no limit."""
    legacy_issuer: bool = False
    """Whether ID tokens name the issuer `accounts.google.com`, without a scheme."""
    org_internal: bool = False
    """Whether the app is internal to an organisation, to which nobody in the sandbox belongs."""
    refresh_token_limit: int = Field(default=100, ge=1)


class Google(Persona):
    """Google: a consent has one refresh token, which a refresh does not replace, and answers name `email` and `profile`
    by longer names."""

    settings: GoogleSettings
    extra_parameters = ("access_type", "include_granted_scopes")
    seeding_parameters: Mapping[str, str] = {"access_type": "offline", "prompt": "consent"}
    sends_issuer = False
    revokes_account = True

    def __init__(self, base_url: str) -> None:
        issuer = f"{base_url}/as/accounts.google.com"
        super().__init__("google", party="google", issuer=issuer, kind="static", settings=GoogleSettings())

    def check_person(self) -> None:
        """Raise `SandboxError` (403) if the app is internal to an organisation: the person sees an error page at the
        provider, and is not sent back to the client."""
        if self.settings.org_internal:
            raise SandboxError(403, "Error 403: org_internal")

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes, each once; the long names of `email` and `profile` become the short ones."""
        return tuple(dict.fromkeys(_ALIASES.get(scope, scope) for scope in text.split()))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the scope is an OpenID scope or looks like one of Google's; Google has no `offline_access`."""
        return scope in {"openid", "email", "profile"} or scope.startswith(_PREFIX)

    def consented_scopes(
        self, ticked: tuple[str, ...], parameters: Mapping[str, str], *, earlier: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the scopes that the person ticked; with incremental authorization (`include_granted_scopes=true`),
        also those of the account's earlier consents."""
        merges = parameters.get("include_granted_scopes") == "true"
        return tuple(dict.fromkeys(ticked + earlier)) if merges else ticked

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],  # noqa: ARG002  Google does not go by scopes
        parameters: Mapping[str, str],
        *,
        consented_before: bool,
    ) -> bool:
        """Tell whether the client gets a refresh token: only for offline access, and if the account has a live consent
        already, only if the request asks for consent again."""
        asks_again = "consent" in parameters.get("prompt", "").split()
        return parameters.get("access_type") == "offline" and (asks_again or not consented_before)

    def refresh_tokens_per_account(self) -> int | None:
        """Return how many live refresh tokens an account may have; issuing one more ends the oldest without notice."""
        return self.settings.refresh_token_limit

    def refresh_token_ends_at(self, token: RefreshToken) -> float | None:
        """Return when the token expires (monotonic time): after 7 days in Testing, otherwise after the days that the
        person allowed; `None` if they are not limited."""
        days = TESTING_DAYS if self.settings.testing else self.settings.time_based_access_days
        return None if days is None else token.issued_at + days * DAY_SECONDS

    def refresh_token_problem(self, token: RefreshToken, *, now: float) -> str | None:
        """Return why the token is too old: "expired", or "idle" after six months without use; `None` if it is not."""
        idle = now - token.used_at >= IDLE_DAYS * DAY_SECONDS
        return super().refresh_token_problem(token, now=now) or ("idle" if idle else None)

    def id_token_issuer(self, account: Account) -> str:
        """Return the issuer, without a scheme if the settings say so; Google uses both forms."""
        return LEGACY_ISSUER if self.settings.legacy_issuer else super().id_token_issuer(account)

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """Return the usual claims of the account, and `azp`, the client that asked."""
        return account_claims(account, scopes) | {"azp": CLIENT_ID}

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer with scopes under their long names, in another order than in the request."""
        names = [_LONG_NAMES.get(scope, scope) for scope in tokens.scope.split()]
        shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        return super().exchange_answer(tokens, account) | {"scope": " ".join(shuffled)}

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return an invalid_grant refusal in Google's words, and any other as it is. The words are the same for every
        refresh token that has ended, except for one that a policy ended: then `error_subtype` names the reason."""
        if refusal.error != "invalid_grant":
            return refusal
        if refusal.cause in _POLICY_SUBTYPES:
            subtype = {"error_subtype": refusal.cause}
            return OAuthError("invalid_grant", "reauth related error", cause=refusal.cause, members=subtype)
        asked_badly = refusal.cause in {"code", "code_used", "redirect_uri", "unknown"}
        description = "Bad Request" if asked_badly else "Token has been expired or revoked."
        return OAuthError("invalid_grant", description, cause=refusal.cause)
