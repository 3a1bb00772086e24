"""Parses compact JWS that are signed with RS256 (RFC 7515 section 7.1), strictly and before any key is looked for, and
then verifies them with a key."""

import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm

from services.user_management.exceptions import UnauthenticatedError
from services.user_management.utils import strict_json

MIN_TOKEN_CHARACTERS: Final = 342
"""The fewest characters that a token can have: those of its signature in base64url, since no accepted key has less than
2,048 bits."""
MAX_TOKEN_CHARACTERS: Final = 8192
MAX_KEY_ID_CHARACTERS: Final = 255
ALGORITHM: Final = "RS256"
_RS256: Final = RSAAlgorithm(RSAAlgorithm.SHA256)
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_LAST_CHARACTERS: Final = {2: "AQgw", 3: "AEIMQUYcgkosw048"}
"""The characters in which canonical base64url may end, by length modulo 4: their unused bits are zero (RFC 4648 section
3.5)."""
_REFUSED_HEADERS: Final = frozenset({"crit", "cty", "b64"})
"""Header members that are refused: `crit` and `b64` change what is signed (RFC 7515 section 4.1.11, RFC 7797), `cty`
announces a nested token."""


@dataclass(frozen=True, slots=True)
class CompactJws:
    """A well-formed token that claims RS256; nothing in it is known to be true until a key has verified it."""

    key_id: str | None
    _payload: str
    _signing_input: bytes
    _signature: bytes

    @classmethod
    def parse(cls, token: str) -> Self:
        """Parse a token. Raises UnauthenticatedError for JWE, opaque tokens, other algorithms, and base64url that is
        padded or otherwise not canonical."""
        parts = token.split(".", 3) if len(token) <= MAX_TOKEN_CHARACTERS else ()
        if len(parts) != 3:
            raise UnauthenticatedError("The credential is not a session token.")
        header, payload, signature = parts
        try:
            return cls(
                key_id=_key_id(strict_json.loads(decode_base64url(header))),
                _payload=payload,
                _signing_input=f"{header}.{payload}".encode("ascii"),
                _signature=decode_base64url(signature),
            )
        except ValueError:
            raise UnauthenticatedError("The credential is not a session token.") from None

    def payload(self, key: RSAPublicKey | None) -> bytes:
        """Return the payload, if `key` signed it. Raises UnauthenticatedError otherwise, also if `key` is None or the
        payload is not canonical base64url."""
        if key is None or not _RS256.verify(self._signing_input, key, self._signature):
            raise UnauthenticatedError("The session token is not valid.")
        try:
            return decode_base64url(self._payload)
        except ValueError:
            raise UnauthenticatedError("The session token is not valid.") from None


def decode_base64url(text: str) -> bytes:
    """Decode unpadded base64url. Raises ValueError unless `text` is the canonical form of its bytes."""
    remainder = len(text) % 4
    if not _BASE64URL.fullmatch(text) or remainder == 1 or (remainder and text[-1] not in _LAST_CHARACTERS[remainder]):
        raise ValueError("not canonical base64url")
    return urlsafe_b64decode(text + "=="[: -remainder % 4])


def _key_id(header: Any) -> str | None:
    """Check a JOSE header and return its `kid`, if any. Unknown members are ignored (RFC 7515 section 4). Raises
    ValueError."""
    if not isinstance(header, dict) or header.get("alg") != ALGORITHM or not _REFUSED_HEADERS.isdisjoint(header):
        raise ValueError("not an RS256 header")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() != "jwt":
        raise ValueError("not a JWT")
    if "kid" not in header:
        return None
    key_id = header["kid"]
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARACTERS:
        raise ValueError("not a key id")
    return key_id
