"""Personas: what distinguishes one of the sandbox's providers from another. A persona decides what the provider grants,
how long that lasts, and how answers are written."""

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
    """Behaviour of a plain OpenID provider of one refresh kind (what becomes of a refresh token that was used).
    Imitations override what the real providers do differently."""

    extra_parameters: tuple[str, ...] = ()
    """Parameters of the authorization request that only this provider has."""
    login_hint_parameter = "login_hint"
    """The parameter of the authorization request that names the account; `login_hint` does so at every provider."""
    seeding_parameters: Mapping[str, str] = {"prompt": "consent"}
    """The parameters assumed for a consent that is made without an authorization request."""
    sends_issuer = True
    """Whether redirects carry `iss` (RFC 9207)."""
    revokes_account = False
    """Whether revoking one token ends every consent that the account gave the client."""
    offline_access_needs_consent = True
    """Whether `offline_access` is ignored without `prompt=consent` in the request (OpenID Connect Core section 11)."""
    takes_basic_authentication = True
    """Whether clients may authenticate in the Authorization header."""
    userinfo_scope = "openid"
    """The scope that a user-info request needs."""
    bearer_schemes = frozenset({"bearer"})
    """Schemes of the Authorization header for access tokens, in lower case."""
    one_access_token = False
    """Whether a refresh ends the access tokens issued before it."""

    def __init__(
        self, name: str, *, party: str, issuer: str, kind: Kind, settings: ProviderSettings | None = None
    ) -> None:
        self.name = name
        self.party = party
        self.issuer = issuer
        self.kind = kind
        self.settings = settings or ProviderSettings()

    # What a request asks for, and what the provider grants.

    def check_person(self) -> None:
        """Raise `SandboxError` if the provider refuses the person on a page of its own, without a redirect back to the
        client; a plain provider refuses nobody."""

    def requested_scopes(self, form: Form) -> tuple[str, ...]:
        """Return the scopes of an authorization request. Raises `OAuthError` invalid_scope if there are none or one is
        unknown."""
        scopes = self.parse_scopes(form.get("scope") or "")
        if not scopes or not all(self.is_scope(scope) for scope in scopes):
            raise OAuthError("invalid_scope", "no scope, or an unknown one")
        return scopes

    def parse_scopes(self, text: str) -> tuple[str, ...]:
        """Return the scopes in a text, each once and spelt as the provider stores them."""
        return tuple(dict.fromkeys(text.split()))

    def is_scope(self, scope: str) -> bool:
        """Tell whether the provider offers the scope."""
        return scope in SCOPES

    def check_request(self, form: Form) -> None:
        """Check parameters that can differ between providers: here `prompt`, which must not be `none`.

        Raises `OAuthError`, which goes back to the client by redirect.
        """
        if form.get("prompt") == "none":
            raise OAuthError("login_required", "nobody is ever signed in here")

    def consented_scopes(
        self,
        ticked: tuple[str, ...],
        parameters: Mapping[str, str],
        *,
        earlier: tuple[str, ...],  # noqa: ARG002  for imitations, which may decide by it
    ) -> tuple[str, ...]:
        """Return the scopes that a consent covers: here those that the person allowed (`ticked`), without
        `offline_access` where `offline_access_needs_consent` rules it out. `earlier` are the scopes of the account's
        live consents, and `parameters` the parameters of the request."""
        if not self.offline_access_needs_consent or "consent" in parameters.get("prompt", "").split():
            return ticked
        return tuple(scope for scope in ticked if scope != "offline_access")

    def gives_refresh_token(
        self,
        scopes: tuple[str, ...],
        parameters: Mapping[str, str],  # noqa: ARG002  for imitations, which may decide by it
        *,
        consented_before: bool,  # noqa: ARG002  likewise
    ) -> bool:
        """Tell whether the client gets a refresh token with a new consent: here, if it covers `offline_access`.
        `consented_before` says whether the account has a live consent already."""
        return "offline_access" in scopes

    def token_scopes(self, scopes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return the scopes of each access token of a new consent: by default, one token has them all."""
        return (scopes,)

    # How long tokens last. Times are of the monotonic clock.

    def access_token_lifetime(self, *, offline: bool) -> int | None:  # noqa: ARG002  for imitations, which may decide by it
        """Return the lifetime of an access token in seconds; `None` if it does not expire. `offline` says whether its
        consent comes with a refresh token."""
        return self.settings.access_token_lifetime_seconds

    def refresh_tokens_per_account(self) -> int | None:
        """Return how many live refresh tokens an account may have, `None` if there is no limit; one more ends the
        oldest."""
        return None

    def refresh_token_ends_at(self, token: RefreshToken) -> float | None:  # noqa: ARG002  likewise
        """Return when a refresh token expires; `None` if it does not."""
        return None

    def refresh_token_problem(self, token: RefreshToken, *, now: float) -> str | None:
        """Return why a refresh token that nobody has ended is too old to be used, as an `OAuthError.cause`; `None` if
        it is not too old."""
        ends_at = self.refresh_token_ends_at(token)
        return "expired" if ends_at is not None and now >= ends_at else None

    def successor(self, token: RefreshToken, *, now: float) -> RefreshToken | None:
        """Return the refresh token to answer with; `None` if the presented one stays valid and the answer holds none.
        Raises `OAuthError` if the presented token was used before and the kind does not allow that (see `rotate`)."""
        return rotate(token, self.kind, now=now, grace_seconds=self.settings.grace_seconds)

    # How answers are written.

    def token_prefixes(self, scopes: tuple[str, ...]) -> tuple[str, str]:  # noqa: ARG002  likewise
        """Return what access tokens and refresh tokens begin with."""
        return ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX

    def id_token_issuer(self, account: Account) -> str:  # noqa: ARG002  likewise
        """Return the `iss` of an ID token."""
        return self.issuer

    def claims(self, account: Account, scopes: tuple[str, ...]) -> dict[str, Any]:
        """Return what ID tokens and user info say about an account."""
        return account_claims(account, scopes)

    def exchange_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:  # noqa: ARG002  likewise
        """Return the body of the answer to an authorization code."""
        return tokens.as_json()

    def refresh_answer(self, tokens: IssuedTokens, account: Account) -> dict[str, Any]:
        """Return the body of the answer to a refresh token."""
        return self.exchange_answer(tokens, account)

    def grant_type(self, form: Form) -> str | None:
        """Return the grant type of a token request; `None` if it names none."""
        return form.get("grant_type")

    def translated(self, refusal: OAuthError) -> OAuthError:
        """Return the refusal in the provider's own codes: here, as it is."""
        return refusal

    def error_status(self, error: str) -> int:
        """Return the HTTP status of a scripted error whose script names none."""
        return STATUS_OF_ERROR.get(error, 400)

    def error_body(self, refusal: OAuthError) -> dict[str, Any]:
        """Return the error body of RFC 6749 section 5.2, with the refusal's further members."""
        return {"error": refusal.error, "error_description": refusal.description, **refusal.members}

    def encoded(
        self,
        body: dict[str, Any],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        accept: str = "",  # noqa: ARG002  likewise
    ) -> Response:
        """Return the response with this body. Imitations may choose its format by `accept`, the client's header."""
        return JSONResponse(body, status, NOT_STORED | dict(headers or {}))

    def refused(self, refusal: OAuthError, *, accept: str = "") -> Response:
        """Return the response to a refusal that is already in the provider's own codes."""
        return self.encoded(self.error_body(refusal), status=refusal.status, headers=refusal.headers, accept=accept)

    def scripted_error(self, fault: Fault, *, accept: str = "") -> Response:
        """Return a scripted error in the provider's own format."""
        status = fault.status or self.error_status(fault.error)
        refusal = OAuthError(
            fault.error, fault.description, status=status, headers=fault.headers, members=fault.members
        )
        return self.refused(refusal, accept=accept)

    def handler(self, answer: Callable[[Entry], Response], *, accept: str = "") -> Handler:
        """Return a handler that calls `answer` with the call's entry in the ledger (the sandbox's record of all calls).

        If `answer` raises `OAuthError`, the handler returns the provider's error response, and writes to the entry the
        provider's code (`error`) and the description before translation (`note`). `accept` is the request's header.
        """

        def handle(entry: Entry) -> Response:
            try:
                return answer(entry)
            except OAuthError as refusal:
                translated = self.translated(refusal)
                entry.error, entry.note = translated.error, refusal.description
                return self.refused(translated, accept=accept)

        return handle
