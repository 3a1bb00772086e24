"""The token, revocation and user-info endpoints: functions that carry out a request and return the answer, and record
the outcome in the request's `entry` of the ledger (the sandbox's record of all calls)."""

from fastapi.responses import Response

from services.sandbox.forms import Form
from services.sandbox.ledger import Entry, fingerprint
from services.sandbox.oidc.client_authentication import authenticate_client
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import AccessToken, Grant
from services.sandbox.oidc.issued_tokens import IssuedTokens
from services.sandbox.oidc.provider import Provider

OPERATIONS = {"authorization_code": "token.exchange", "refresh_token": "token.refresh"}
"""Grant type → name of the operation in the ledger; for any other grant type it is "token.other"."""


def _required(form: Form, name: str) -> str:
    value = form.get(name)
    if value is None:
        raise OAuthError("invalid_request", f"{name} is missing")
    return value


def _exchange(provider: Provider, form: Form, client_id: str) -> tuple[Grant, IssuedTokens]:
    return provider.exchange_code(
        _required(form, "code"),
        client_id=client_id,
        redirect_uri=form.get("redirect_uri"),
        code_verifier=form.get("code_verifier"),
    )


def _refresh(provider: Provider, form: Form, client_id: str) -> tuple[Grant, IssuedTokens]:
    scope = form.get("scope")
    return provider.refresh(
        _required(form, "refresh_token"),
        client_id=client_id,
        scopes=provider.persona.parse_scopes(scope) if scope else None,
    )


_GRANT_TYPES = {"authorization_code": _exchange, "refresh_token": _refresh}


def token_answer(
    provider: Provider, form: Form, *, authorization: str | None, entry: Entry, accept: str = ""
) -> Response:
    """Return the answer to a token request, which exchanges a code or a refresh token (RFC 6749 sections 4.1.3 and 6).
    `accept` is the request's header, by which some providers choose the format. Raises `OAuthError` for a refusal."""
    persona = provider.persona
    if form.repeated:
        raise OAuthError("invalid_request", f"repeated parameters: {', '.join(form.repeated)}")
    client_id = authenticate_client(authorization if persona.takes_basic_authentication else None, form)
    grant_type = persona.grant_type(form) or _required(form, "grant_type")
    redeem = _GRANT_TYPES.get(grant_type)
    if redeem is None:
        raise OAuthError("unsupported_grant_type", "grant_type must be authorization_code or refresh_token")
    grant, tokens = redeem(provider, form, client_id)
    entry.committed = True
    entry.account = grant.account.id
    entry.issued_refresh_token = fingerprint(tokens.refresh_token)
    answer = persona.refresh_answer if grant_type == "refresh_token" else persona.exchange_answer
    return persona.encoded(answer(tokens, grant.account), accept=accept)


def revocation_answer(provider: Provider, form: Form, *, authorization: str | None, entry: Entry) -> Response:
    """Revoke a token (RFC 7009) and answer 200, also for a token that is unknown or no longer works. Raises
    `OAuthError` if the client does not authenticate or names no token."""
    takes_basic = provider.persona.takes_basic_authentication
    client_id = authenticate_client(authorization if takes_basic else None, form)
    grant = provider.revoke(_required(form, "token"), client_id=client_id)
    entry.committed = grant is not None
    entry.account = grant.account.id if grant else None
    return Response(status_code=200)


def bearer_token(provider: Provider, authorization: str | None, *, entry: Entry) -> AccessToken:
    """Return the access token in an Authorization header (RFC 6750 section 2.1), and write its account to `entry`.
    Raises `OAuthError` if there is none or it does not work."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() not in provider.persona.bearer_schemes or not value:
        raise OAuthError(
            "invalid_request", "a bearer token is needed", status=401, headers={"WWW-Authenticate": "Bearer"}
        )
    token = provider.bearer(value)
    entry.account = token.grant.account.id
    return token


def userinfo_answer(provider: Provider, *, authorization: str | None, entry: Entry) -> Response:
    """Return the claims about the account of the access token in an Authorization header (OpenID Connect Core section
    5.3). Raises `OAuthError` if the token does not work or lacks the scope."""
    token = bearer_token(provider, authorization, entry=entry)
    needed = provider.persona.userinfo_scope
    if needed not in token.scopes:
        challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'}
        raise OAuthError("insufficient_scope", f"{needed} was not granted", status=403, headers=challenge)
    return provider.persona.encoded(provider.persona.claims(token.grant.account, token.scopes))
