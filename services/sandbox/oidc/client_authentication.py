"""Client authentication at the token and revocation endpoints (RFC 6749 section 2.3.1)."""

import base64
import binascii
import hmac
from urllib.parse import unquote_plus

from services.sandbox.forms import Form
from services.sandbox.oidc.errors import OAuthError, invalid_client
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET


def _basic_credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise invalid_client("the Authorization header is not Basic")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as problem:
        raise invalid_client("the Basic credentials are not base64 of UTF-8") from problem
    client_id, _, secret = decoded.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def presented_client(authorization: str | None, form: Form) -> str | None:
    """Return the client id that a request names, authenticated or not, for the ledger (the sandbox's record of all
    calls); `None` if it names none."""
    try:
        return _basic_credentials(authorization)[0] if authorization else form.get("client_id")
    except OAuthError:
        return None


def authenticate_client(authorization: str | None, form: Form) -> str:
    """Authenticate by client_secret_basic or client_secret_post; return the client id.

    Raises `OAuthError`: invalid_client, or invalid_request for both methods at once.
    """
    if authorization and "client_secret" in form:
        raise OAuthError("invalid_request", "more than one kind of client authentication")
    if authorization:
        client_id, secret = _basic_credentials(authorization)
    else:
        client_id, secret = form.get("client_id") or "", form.get("client_secret") or ""
    known = hmac.compare_digest(client_id.encode(), CLIENT_ID.encode())
    if not (known and hmac.compare_digest(secret.encode(), CLIENT_SECRET.encode())):
        raise invalid_client("unknown client or wrong secret")
    return client_id
