"""Verification of RS256 JWTs (RFC 7519, RFC 8725), with everything pinned that an attacker could choose."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt import PyJWTError

from services.user_management.exceptions import SessionPendingError, UnauthenticatedError
from services.user_management.security.jwks import SigningKeys

LEEWAY_SECONDS: Final = 5
MAX_TOKEN_CHARACTERS: Final = 8192
_REQUIRED_CLAIMS: Final = ("exp", "iat", "nbf", "sub", "sid", "iss")
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LOOSE_BITS: Final = {2: "AQgw", 3: "AEIMQUYcgkosw048"}
"""Last characters of canonical base64url, by length modulo 4: the unused bits are zero (RFC 4648 section 3.5)."""


@dataclass(frozen=True, slots=True)
class SessionClaims:
    """What a verified session token says."""

    issuer: str
    subject: str
    session_id: str
    impersonator: str | None
    claims: dict[str, Any]


class SessionVerifier:
    """Verifies session tokens of one issuer."""

    def __init__(
        self, keys: SigningKeys, *, issuer: str, authorized_parties: Collection[str], allow_missing_azp: bool = False
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._authorized_parties = frozenset(authorized_parties)
        self._allow_missing_azp = allow_missing_azp

    async def verify(self, token: str) -> SessionClaims:
        """The claims of a valid token.

        Raises UnauthenticatedError for anything wrong with it, SessionPendingError for a session with an open task,
        and RetryLaterError while the issuer's keys cannot be had.
        """
        key = await self._keys.find(_key_id(token))
        if key is None:
            raise UnauthenticatedError("The session token is not valid.")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(_REQUIRED_CLAIMS), "verify_aud": False},
            )
        except (PyJWTError, ValueError):
            raise UnauthenticatedError("The session token is not valid.") from None
        return self._accept(claims)

    def _accept(self, claims: dict[str, Any]) -> SessionClaims:
        party = claims.get("azp")
        known = isinstance(party, str) and party in self._authorized_parties
        if not known and not (party is None and self._allow_missing_azp):
            raise UnauthenticatedError("The session token was issued to another origin.")
        if "aud" in claims or not all(isinstance(claims[name], str) and claims[name] for name in ("sub", "sid")):
            raise UnauthenticatedError("The session token is not valid.")
        if claims.get("sts", "active") != "active":
            raise SessionPendingError
        actor = claims.get("act")
        return SessionClaims(
            issuer=self._issuer,
            subject=claims["sub"],
            session_id=claims["sid"],
            impersonator=str(actor.get("sub")) if isinstance(actor, dict) else None,
            claims=claims,
        )


def _key_id(token: str) -> str | None:
    """The `kid` of a token in canonical compact form. Raises UnauthenticatedError for any other shape."""
    if len(token) > MAX_TOKEN_CHARACTERS or not _COMPACT.fullmatch(token):
        raise UnauthenticatedError("The credential is not a session token.")
    if not all(_is_canonical(part) for part in token.split(".")):
        raise UnauthenticatedError("The credential is not a session token.")
    try:
        header = jwt.get_unverified_header(token)
    except (PyJWTError, ValueError):
        raise UnauthenticatedError("The credential is not a session token.") from None
    key_id = header.get("kid")
    return key_id if isinstance(key_id, str) and header.get("alg") == "RS256" and "crit" not in header else None


def _is_canonical(part: str) -> bool:
    remainder = len(part) % 4
    return remainder == 0 or (remainder != 1 and part[-1] in _LOOSE_BITS[remainder])
