"""What makes one provider differ from another: what it grants, how long that lasts, and how it writes its answers."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi.responses import JSONResponse, Response

from services.sandbox.broken_responses import STATUS_OF_ERROR
from services.sandbox.faults import Fault
from services.sandbox.forms import Form
from services.sandbox.intake import Handler
from services.sandbox.ledger import Entry
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.errors import NOT_STORED, OAuthError
from services.sandbox.oidc.grants import ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX, RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens, account_claims
from services.sandbox.oidc.rotation import rotate
from services.sandbox.oidc.settings import ProviderSettings
from services.sandbox.providers import SCOPES, Kind


class Persona:
    """A plain OpenID provider of one refresh kind. Imitations override what the real providers do differently."""

    extra_parameters: tuple[str, ...] = ()
    """Authorization request parameters of its own."""
    login_hint_parameter = "login_hint"
    """Names the account that is meant; `login_hint` does everywhere."""
    seeding_parameters: Mapping[str, str] = {"prompt": "consent"}
    """Those that a grant made without the dance is taken to have had."""
    sends_issuer = True
    """Whether its redirects carry `iss` (RFC 9207)."""
    revokes_account = False
    """Whether revoking one token ends every grant that the account gave the client."""
    offline_access_needs_consent = True
    """Whether `offline_access` is ignored where the consent page was not asked for (OpenID Connect Core section 11)."""
    takes_basic_authentication = True
    """Whether clients may authenticate in the Authorization header."""
    userinfo_scope = "openid"
    """The scope that user info needs."""
    bearer_schemes = frozenset({"bearer"})
    """Schemes of the Authorization header, in lower case."""
    one_access_token = False
    """Whether a refresh ends the access tokens before it."""

    def __init__(
        self, name: str, *, party: str, issuer: str, kind: Kind, settings: ProviderSettings | None = None
    ) -> None:
        self.name = name
        self.party = party
        self.issuer = issuer
        self.kind = kind
        self.settings = settings or ProviderSettings()

    # What is asked for and granted.

    def check_person(self) -> None:
        """Raises `SandboxError` where people are told, and the client is not, that they cannot use it."""

    def requested_scopes(self, form: Form) -> tuple[str, ...]:
        """The scopes of an authorization request. Raises `OAuthError` invalid_scope."""
        scopes = self.parse_scopes(form.get("scope") or "")
        if not scopes or not all(self.is_scope(scope) for scope in scopes):
            raise OAuthError("invalid_scope", "unknown or no scope")
        return scopes

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Scopes as they are remembered, each once."""
        return tuple(dict.fromkeys(text.split()))

    def is_scope(self, scope: str) -> bool:
        """Whether the scope is on offer."""
        return scope in SCOPES

    def check_request(self, form: Form) -> None:
        """Raises `OAuthError`, which goes back to the client by redirect."""
        if form.get("prompt") == "none":
            raise OAuthError("login_required", "nobody is ever signed in here")

    def consented_scopes(
        self,
        ticked: tuple[str, ...],
        parameters: Mapping[str, str],
        *,
        earlier: tuple[str, ...],  # noqa: ARG002  what an imitation decides by
    ) -> tuple[str, ...]:
        """What a consent covers; `earlier` are the scopes of the account's live grants."""
        if not self.offline_access_needs_consent or "consent" in parameters.get("prompt", "").split():
            return ticked
        return tuple(scope for scope in ticked if scope != "offline_access")

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],
        parameters: Mapping[str, str],  # noqa: ARG002  what an imitation decides by
        *,
        consented_before: bool,  # noqa: ARG002  likewise
    ) -> bool:
        """Whether a refresh token comes with a grant."""
        return "offline_access" in scopes

    def token_scopes(self, scopes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The scopes of each access token of a new grant: one for everything."""
        return (scopes,)

    # How long it lasts. Times are monotonic.

    def access_token_lifetime(self, *, offline: bool) -> int | None:  # noqa: ARG002  what an imitation decides by
        """Seconds; `None` for a token that does not run out."""
        return self.settings.access_token_lifetime_seconds

    def refresh_tokens_per_account(self) -> int | None:
        """How many live ones an account and client may have; the oldest dies of one more. `None`: any number."""
        return None

    def refresh_token_ends_at(self, token: RefreshToken) -> float | None:  # noqa: ARG002  likewise
        """When a time-based grant ends."""
        return None

    def refresh_token_problem(self, token: RefreshToken, *, now: float) -> str | None:
        """Why a token that nobody ended is too old."""
        ends_at = self.refresh_token_ends_at(token)
        return "expired" if ends_at is not None and now >= ends_at else None

    def successor(self, token: RefreshToken, *, now: float) -> RefreshToken | None:
        """The refresh token to answer with; `None` where the presented one stays. Raises `OAuthError`."""
        return rotate(token, self.kind, now=now, grace_seconds=self.settings.grace_seconds)

    # Answers.

    def token_prefixes(self, scopes: tuple[str, ...]) -> tuple[str, str]:  # noqa: ARG002  likewise
        """What access and refresh tokens begin with."""
        return ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX

    def id_token_issuer(self, account: Account) -> str:  # noqa: ARG002  likewise
        """The `iss` of an ID token."""
        return self.issuer

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """What ID tokens and user info say about an account."""
        return account_claims(account, scopes)

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:  # noqa: ARG002  likewise
        """The body that answers a code."""
        return tokens.as_json()

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """The body that answers a refresh token."""
        return self.exchange_answer(tokens, account)

    def grant_type(self, form: Form) -> str | None:
        """What a token request wants."""
        return form.get("grant_type")

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return the refusal in the provider's own codes."""
        return refusal

    def error_status(self, error: str) -> int:
        """The HTTP status of a scripted error."""
        return STATUS_OF_ERROR.get(error, 400)

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """Return the error body of RFC 6749 section 5.2."""
        return {"error": refusal.error, "error_description": refusal.description, **refusal.members}

    def encoded(
        self,
        body: dict[str, Any],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        accept: str = "",  # noqa: ARG002  likewise
    ) -> Response:
        """A body as it is sent to a client that sent the header `Accept`."""
        return JSONResponse(body, status, NOT_STORED | dict(headers or {}))

    def refused(self, refusal: OAuthError, *, accept: str = "") -> Response:
        """A refusal, translated already, as it is sent."""
        return self.encoded(self.error_body(refusal), status=refusal.status, headers=refusal.headers, accept=accept)

    def scripted_error(self, fault: Fault, *, accept: str = "") -> Response:
        """A scripted error in the provider's style."""
        status = fault.status or self.error_status(fault.error)
        refusal = OAuthError(
            fault.error, fault.description, status=status, headers=fault.headers, members=fault.members
        )
        return self.refused(refusal, accept=accept)

    def handler(self, answer: Callable[[Entry], Response], *, accept: str = "") -> Handler:
        """A handler whose refusals become error bodies and are noted in the ledger."""

        def handle(entry: Entry) -> Response:
            try:
                return answer(entry)
            except OAuthError as refusal:
                translated = self.translated(refusal)
                entry.error, entry.note = translated.error, refusal.description
                return self.refused(translated, accept=accept)

        return handle
