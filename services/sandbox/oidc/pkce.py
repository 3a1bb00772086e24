"""Checks of the challenge and the verifier of PKCE (Proof Key for Code Exchange, RFC 7636), of which only the method
S256 is accepted."""

import hashlib
import hmac
import re

from services.sandbox.oidc.errors import OAuthError
from services.sandbox.signing import base64url

_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


def is_s256_challenge(challenge: str, method: str | None) -> bool:
    """Tell whether `method` is S256 and `challenge` has the form of an S256 challenge, 43 base64url characters (RFC
    7636 section 4.2)."""
    return method == "S256" and _S256_CHALLENGE.fullmatch(challenge) is not None


def check_verifier(challenge: str | None, verifier: str | None) -> None:
    """Check the verifier of a token request against the challenge of the authorization request (RFC 7636 section 4.6).
    If there was no challenge, there must be no verifier, since one would show a downgrade attack (RFC 9700 section
    4.8.2).

    Raises `OAuthError` invalid_grant if the two do not fit.
    """
    if challenge is None and verifier is None:
        return
    computed = base64url(hashlib.sha256((verifier or "").encode()).digest())
    if not hmac.compare_digest(computed, challenge or ""):
        raise OAuthError("invalid_grant", "code_verifier does not match the code_challenge", cause="code")
