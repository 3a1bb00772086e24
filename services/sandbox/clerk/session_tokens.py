"""Clerk session tokens, version 2. Overrides turn them into invalid tokens of any kind."""

import hashlib
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.sandbox.clerk.users import clerk_id
from services.sandbox.signing import KeyOrSecret, SigningKey, sign_jws

LIFETIME_SECONDS = 60
NOT_BEFORE_SLACK_SECONDS = 10


def session_id(user_id: str) -> str:
    """Return the id of the one session that a user of the sandbox has; it is derived from the user's id."""
    return f"sess_{hashlib.sha256(user_id.encode()).hexdigest()[:27]}"


def default_claims(user_id: str, *, issuer: str, authorized_party: str, issued_at: int) -> dict[str, Any]:
    """Return the claims of a version 2 session token; times are in seconds."""
    return {
        "azp": authorized_party,
        "exp": issued_at + LIFETIME_SECONDS,
        "fva": [0, -1],
        "iat": issued_at,
        "iss": issuer,
        "jti": clerk_id("jti").removeprefix("jti_"),
        "nbf": issued_at - NOT_BEFORE_SLACK_SECONDS,
        "sid": session_id(user_id),
        "sts": "active",
        "sub": user_id,
        "v": 2,
    }


def _merged(defaults: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (defaults | overrides).items() if value is not None}


def _key(override: KeyOrSecret | str | None, signing_key: SigningKey) -> KeyOrSecret:
    if override is None:
        return signing_key.private_key
    if not isinstance(override, str):
        return override
    if "PRIVATE KEY" not in override:
        return override.encode()
    private_key = load_pem_private_key(override.encode(), password=None)
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise TypeError("only RSA private keys can sign a session token")
    return private_key


def build_session_token(
    user_id: str, *, signing_key: SigningKey, issuer: str, authorized_party: str, overrides: dict[str, Any]
) -> str:
    """Return a token for `user_id`, valid for 60 s unless overridden.

    Overrides are claims: a value adds or replaces the claim, `None` removes it. Four names are not claims:
    `issued_at` (seconds) moves iat, nbf and exp together; `header` overrides the JOSE header in the same way;
    `algorithm` (RS256, RS384, RS512, HS256, HS384, HS512, none) replaces RS256, in the header too;
    `key` (an RSA private key or its PEM; bytes or other text for HMAC) replaces Clerk's key.

    Raises `ValueError` when the algorithm does not fit the key or a PEM cannot be read, and `TypeError` for a private
    key that is not RSA or is encrypted.
    """
    claims = dict(overrides)
    issued_at = int(claims.pop("issued_at", time.time()))
    algorithm = claims.pop("algorithm", "RS256")
    header = _merged({"alg": algorithm, "kid": signing_key.kid, "typ": "JWT"}, claims.pop("header", {}))
    key = _key(claims.pop("key", None), signing_key)
    defaults = default_claims(user_id, issuer=issuer, authorized_party=authorized_party, issued_at=issued_at)
    return sign_jws(header, _merged(defaults, claims), key=key, algorithm=algorithm)
