"""Proof Key for Code Exchange, S256 only (RFC 7636)."""

import hashlib
import hmac
import re

from services.sandbox.oidc.errors import OAuthError
from services.sandbox.signing import base64url

_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


def is_s256_challenge(challenge: str, method: str | None) -> bool:
    """Tell whether the challenge of an authorization request is an S256 challenge of 43 characters (section 4.3)."""
    return method == "S256" and _S256_CHALLENGE.fullmatch(challenge) is not None


def check_verifier(challenge: str | None, verifier: str | None) -> None:
    """Check the verifier (RFC 7636 section 4.6). A code without a challenge needs none, and a verifier for such a code
    is refused, since it shows a downgrade attack (RFC 9700 section 4.8.2).

    Raises `OAuthError` invalid_grant.
    """
    if challenge is None and verifier is None:
        return
    computed = base64url(hashlib.sha256((verifier or "").encode()).digest())
    if not hmac.compare_digest(computed, challenge or ""):
        raise OAuthError("invalid_grant", "code_verifier does not match the code_challenge", cause="code")
