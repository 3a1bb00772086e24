"""The authorization request: parsing it, and the redirect that answers it."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from services.sandbox.errors import SandboxError
from services.sandbox.forms import Form
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.pkce import is_s256_challenge
from services.sandbox.providers import CLIENT_ID

REDIRECT_HOSTS = frozenset({"127.0.0.1", "localhost", "testserver", "test"})
REQUEST_PARAMETERS = (
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "prompt",
    "login_hint",
    "code_challenge",
    "code_challenge_method",
)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request whose client and redirect URI were verified, so that even errors may go back to the client."""

    redirect_uri: str
    state: str | None
    scopes: tuple[str, ...]
    nonce: str | None
    code_challenge: str | None
    login_hint: str | None
    parameters: dict[str, str]
    """Every parameter of the request that the provider knows, by name."""


def redirect_location(persona: Persona, *, redirect_uri: str, state: str | None, **answer: str) -> str:
    """Return the redirect URI with the answer, `state` and, if the persona sends it, `iss` (RFC 9207) in its query."""
    parts = urlsplit(redirect_uri)
    added = answer | ({"state": state} if state is not None else {})
    added |= {"iss": persona.issuer} if persona.sends_issuer else {}
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *added.items()])
    return urlunsplit(parts._replace(query=query))


def _is_acceptable(redirect_uri: str) -> bool:
    try:
        parts = urlsplit(redirect_uri)
    except ValueError:  # e.g. an unclosed bracket in the host
        return False
    return parts.scheme == "http" and parts.hostname in REDIRECT_HOSTS and not parts.fragment


def trusted_redirect_uri(form: Form) -> str:
    """Return the redirect URI, after verifying it and the client.

    Raises `SandboxError` (400), which is shown to the person: nothing may be sent to an unverified address.
    """
    if form.get("client_id") != CLIENT_ID:
        raise SandboxError(400, f"client_id is not {CLIENT_ID}")
    redirect_uri = form.get("redirect_uri") or ""
    if not _is_acceptable(redirect_uri):
        raise SandboxError(400, "redirect_uri must be http on 127.0.0.1, localhost, testserver or test")
    return redirect_uri


def carried_parameters(persona: Persona) -> tuple[str, ...]:
    """Return the names of the request parameters that the consent page hands on."""
    return REQUEST_PARAMETERS + persona.extra_parameters


def parse_request(persona: Persona, form: Form) -> AuthorizationRequest:
    """Parse a request and check all of it.

    Raises `OAuthError`, which goes back to the client by redirect, and `SandboxError` as `trusted_redirect_uri` does.
    """
    if form.repeated and set(form.repeated) & set(carried_parameters(persona)):
        raise OAuthError("invalid_request", f"repeated parameters: {', '.join(form.repeated)}")
    if form.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    scopes = persona.requested_scopes(form)
    challenge = form.get("code_challenge")
    if challenge and not is_s256_challenge(challenge, form.get("code_challenge_method")):
        raise OAuthError("invalid_request", "code_challenge must be an S256 challenge of 43 characters")
    persona.check_request(form)
    return AuthorizationRequest(
        redirect_uri=trusted_redirect_uri(form),
        state=form.get("state"),
        scopes=scopes,
        nonce=form.get("nonce"),
        code_challenge=challenge,
        login_hint=form.get("login_hint") or form.get(persona.login_hint_parameter),
        parameters={name: form.get(name) or "" for name in carried_parameters(persona) if name in form},
    )


def granted_scopes(requested: tuple[str, ...], form: Form) -> tuple[str, ...]:
    """Return the requested scopes that the person ticked; all of them if the form has no `granted_scope`."""
    if "granted_scope" not in form:
        return requested
    ticked = " ".join(form.all("granted_scope")).split()  # a field for each scope, or one for all
    return tuple(scope for scope in requested if scope in ticked)
