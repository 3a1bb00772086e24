"""The sandbox's imitation of Microsoft (identity platform v2.0), with what Microsoft's OAuth does differently from the
standards: https://learn.microsoft.com/entra/identity-platform."""

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from services.sandbox.forms import Form
from services.sandbox.imitations.microsoft_errors import AADSTS_CODE, described
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.settings import DAY_SECONDS, ProviderSettings
from services.sandbox.providers import CLIENT_ID

PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"
IDLE_DAYS = 90
SPA_HOURS = 24
GRAPH = "https://graph.microsoft.com/"
_PERSONAL_DOMAINS = frozenset({"outlook.com", "hotmail.com", "live.com"})
_OPENID_SCOPES = ("openid", "profile", "email")
_PROMPTS = frozenset({"login", "none", "consent", "select_account"})
_SPELLINGS = {
    "readwrite": "ReadWrite",
    "readbasic": "ReadBasic",
    "mailboxsettings": "MailboxSettings",
    "onlinemeetings": "OnlineMeetings",
}
"""Words in Graph's scopes that have a capital letter in the middle."""
_SCOPE = re.compile(r"[a-z]+(\.[a-z]+)*")


class MicrosoftSettings(ProviderSettings):
    """Settings of Microsoft, which tests may change."""

    access_token_lifetime_jitter_seconds: int = Field(default=1800, ge=0)
    """The most seconds by which the lifetime of an access token is extended at random."""
    spa: bool = False
    """Whether the redirect URI is registered as that of a single-page app, whose refresh tokens live 24 hours."""
    lower_case_scopes: bool = False
    """Whether answers spell scopes in lower case."""


def tenant_of(account: Account) -> str:
    """Return the tenant of an account (`tid`): that of its domain, or the one of all personal accounts."""
    domain = account.email.rpartition("@")[2].lower()
    return PERSONAL_TENANT if domain in _PERSONAL_DOMAINS else str(uuid.uuid5(uuid.NAMESPACE_DNS, domain))


def object_id_of(account: Account) -> str:
    """Return the id of the account that is the same in all apps (`oid`)."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, account.id))


def pairwise_subject(account: Account, client_id: str = CLIENT_ID) -> str:
    """Return the id of the account in one app (`sub`)."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{client_id}/{account.id}").hex


def _as_told(scope: str) -> str:
    words = (_SPELLINGS.get(word, word.capitalize()) for word in scope.split("."))
    return f"{GRAPH}{'.'.join(words)}"


class Microsoft(Persona):
    """Microsoft: each refresh gives a new refresh token and leaves the old ones valid, and answers spell scopes
    differently from requests."""

    settings: MicrosoftSettings
    sends_issuer = False
    offline_access_needs_consent = False

    def __init__(self, base_url: str) -> None:
        self.host = f"{base_url}/as/login.microsoftonline.com"
        issuer = f"{self.host}/common/v2.0"
        super().__init__("microsoft", party="microsoft", issuer=issuer, kind="overlap", settings=MicrosoftSettings())

    def check_request(self, form: Form) -> None:
        """Raise `OAuthError` for a `prompt` that is `none` (nobody is signed in), unknown, or more than one value."""
        super().check_request(form)
        prompt = form.get("prompt")
        if prompt is not None and prompt not in _PROMPTS:
            raise OAuthError("invalid_request", "unsupported prompt", cause="prompt")

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes in lower case and without Graph's prefix (`mail.read`), since neither case nor prefix
        matters."""
        return super().parse_scopes(" ".join(scope.removeprefix(GRAPH) for scope in text.lower().split()))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the text looks like a scope; Graph has hundreds, so they are not listed."""
        return scope == "offline_access" or _SCOPE.fullmatch(scope) is not None

    def access_token_lifetime(self, *, offline: bool) -> int | None:  # noqa: ARG002  the same for all
        """Return a random lifetime in seconds: 60 to 90 minutes, unless the settings say otherwise."""
        jitter = self.settings.access_token_lifetime_jitter_seconds
        return self.settings.access_token_lifetime_seconds + secrets.randbelow(jitter + 1)

    def refresh_token_problem(self, token: RefreshToken, *, now: float) -> str | None:
        """Return why the token is too old: "idle" after 90 days without use, "spa_lifetime" after 24 hours in a
        single-page app; `None` if it is not."""
        if self.settings.spa and now - token.issued_at >= SPA_HOURS * 3600:
            return "spa_lifetime"
        return "idle" if now - token.used_at >= IDLE_DAYS * DAY_SECONDS else None

    def id_token_issuer(self, account: Account) -> str:
        """Return the issuer of the account's own tenant, even if the request went to `common`."""
        return f"{self.host}/{tenant_of(account)}/v2.0"

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """Return the claims: `sub` differs from app to app; `oid` and `tid` together name the account everywhere."""
        claims = {
            "sub": pairwise_subject(account),
            "tid": tenant_of(account),
            "oid": object_id_of(account),
            "ver": "2.0",
        }
        if "email" in scopes:
            claims["email"] = account.email
        if "profile" in scopes:
            claims |= {"name": account.name, "preferred_username": account.email}
        return claims

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the answer with `ext_expires_in`, and with Graph's scopes first, with their prefix, and never
        `offline_access`."""
        granted = tokens.scope.split()
        graph = [_as_told(scope) for scope in granted if scope not in {*_OPENID_SCOPES, "offline_access"}]
        scope = " ".join([*graph, *(scope for scope in reversed(_OPENID_SCOPES) if scope in granted)])
        answer = super().exchange_answer(tokens, account) | {"ext_expires_in": tokens.expires_in}
        return answer | {"scope": scope.lower() if self.settings.lower_case_scopes else scope}

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return the refusal with Microsoft's error number (AADSTS…), unless there is none for it."""
        return described(refusal)

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """Return the standard members, and those for Microsoft's support: error numbers, time, trace and correlation
        id."""
        moment, trace, correlation = datetime.now(UTC), str(uuid.uuid4()), str(uuid.uuid4())
        timestamp = f"{moment:%Y-%m-%d %H:%M:%SZ}"
        suffix = f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}"
        return {
            "error": refusal.error,
            "error_description": f"{refusal.description} {suffix}",
            "error_codes": [int(code) for code in AADSTS_CODE.findall(refusal.description)],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            **refusal.members,
        }
