"""Session tokens for tests of the verifier alone: one key, one issuer, a clock that stands still."""

import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.sandbox.signing import base64url
from services.user_management.security.jwt import SessionVerifier
from services.user_management.tests.clocks import NOW, SetClock

ISSUER: Final = "https://clerk.example.com"
ORIGIN: Final = "https://app.example.com"
KEY_ID: Final = "ins_2abc"
PRIVATE_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HEADER: Final[dict[str, Any]] = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT", "cat": "cl_B7d4PD111AAA"}
CLAIMS: Final[dict[str, Any]] = {
    "azp": ORIGIN,
    "exp": NOW + 60,
    "fva": [3, -1],
    "iat": NOW,
    "iss": ISSUER,
    "jti": "a1b2c3",
    "nbf": NOW - 10,
    "sid": "sess_1",
    "sts": "active",
    "sub": "user_1",
    "v": 2,
}
ABSENT: Final = object()
"""The value that makes `encoded` leave a member out."""


class OneKey:
    """A key set of one key that counts how often it is asked."""

    def __init__(self) -> None:
        self.lookups = 0

    async def find(self, key_id: str | None) -> RSAPublicKey | None:
        self.lookups += 1
        return PRIVATE_KEY.public_key() if key_id == KEY_ID else None


def verifier(keys: OneKey | None = None, clock: SetClock | None = None, **settings: Any) -> SessionVerifier:
    settings = {"issuer": ISSUER, "authorized_parties": [ORIGIN]} | settings
    return SessionVerifier(keys or OneKey(), clock=clock or SetClock(), **settings)


def signed(header: bytes, payload: bytes) -> str:
    """Return a compact JWS over any bytes, signed as RS256 whatever the header says."""
    message = f"{base64url(header)}.{base64url(payload)}"
    return f"{message}.{base64url(PRIVATE_KEY.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def token(header: Mapping[str, Any] | None = None, /, **claims: Any) -> str:
    """Sign a token that is valid, except for what is given; ABSENT leaves a member out."""
    return signed(encoded(HEADER | dict(header or {})), encoded(CLAIMS | claims))


def encoded(members: dict[str, Any]) -> bytes:
    """Encode as JSON, without the members whose value is ABSENT."""
    return json.dumps({name: value for name, value in members.items() if value is not ABSENT}).encode()
