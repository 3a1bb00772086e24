"""Verification of session tokens (RFC 7519, RFC 8725), with everything pinned that an attacker could choose."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.user_management.core.clock import Clock
from services.user_management.exceptions import SessionPendingError, UnauthenticatedError
from services.user_management.security.jwks import SigningKeys
from services.user_management.security.jws import CompactJws
from services.user_management.security.organization import Organization, read_organization
from services.user_management.utils import strict_json

LEEWAY_SECONDS: Final = 5
MAX_IDENTIFIER_CHARACTERS: Final = 255
MAX_REMEMBERED: Final = 4096
"""Tokens, of about 2 KB each; the oldest is forgotten, which costs it one more verification."""
_LAST_SECOND: Final = 253_402_300_799
"""The end of year 9999: a later NumericDate is a mistake, and some lie beyond what a float holds exactly."""


@dataclass(frozen=True, slots=True)
class SessionClaims:
    """What a verified session token says.

    `factor_verification_age`: minutes since the first and the second factor were given, -1 for never; None if unsaid.
    """

    issuer: str
    subject: str
    session_id: str
    impersonator: str | None
    organization: Organization | None
    factor_verification_age: tuple[int, int] | None
    claims: dict[str, Any]


class _Verified(NamedTuple):
    """A token that was verified, by `key`."""

    key_id: str | None
    key: RSAPublicKey | None
    session: SessionClaims


class SessionVerifier:
    """Verifies the session tokens that one set of keys signs.

    `issuer` may name several, for an instance that is reachable under several addresses. Another instance has other
    keys and needs a verifier of its own: its keys must not vouch for this one's users.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str | Collection[str],
        authorized_parties: Collection[str],
        clock: Clock,
        allow_missing_azp: bool = False,
    ) -> None:
        self._keys = keys
        self._issuers = frozenset((issuer,) if isinstance(issuer, str) else issuer)
        self._authorized_parties = frozenset(authorized_parties)
        self._clock = clock
        self._allow_missing_azp = allow_missing_azp
        self._verified: dict[bytes, _Verified] = {}

    async def verify(self, token: str) -> SessionClaims:
        """The claims of a valid token.

        Raises UnauthenticatedError for anything wrong with it, SessionPendingError for a session with an open task,
        and RetryLaterError while the issuer's keys cannot be had.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        session = await self._recall(digest)
        if session is None:
            session = await self._read(token, digest)
        _check_times(session.claims, self._clock.now().timestamp())
        if session.claims.get("sts", "active") != "active":
            raise SessionPendingError
        return session

    async def _recall(self, digest: bytes) -> SessionClaims | None:
        """What a token said that was verified before, if the issuer still has the very key that verified it.

        A session token comes again with each request of its minute. What can change is asked each time: the key here,
        the time by the caller. Kept under a hash: the memory of a process holds no tokens.
        """
        known = self._verified.get(digest)
        if known is None:
            return None
        if await self._keys.find(known.key_id) is known.key:
            return known.session
        self._verified.pop(digest, None)
        return None

    async def _read(self, token: str, digest: bytes) -> SessionClaims:
        """Verify all that does not change with time, and remember it."""
        signed = await verify_signature(token, self._keys)
        claims = _read_object(signed.payload)
        self._check_pinned(claims)
        session = SessionClaims(
            issuer=claims["iss"],
            subject=_read_identifier(claims, "sub"),
            session_id=_read_identifier(claims, "sid"),
            impersonator=_read_impersonator(claims),
            organization=read_organization(claims),
            factor_verification_age=_read_verification_age(claims),
            claims=claims,
        )
        self._verified[digest] = _Verified(signed.key_id, signed.key, session)
        if len(self._verified) > MAX_REMEMBERED:
            del self._verified[next(iter(self._verified))]
        return session

    def _check_pinned(self, claims: Mapping[str, Any]) -> None:
        """`aud` marks tokens made for somebody else: id tokens, and those of Clerk's JWT templates."""
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer not in self._issuers or "aud" in claims:
            raise _invalid()
        party = claims.get("azp")
        if not (party in self._authorized_parties if isinstance(party, str) else self._may_lack_party(claims)):
            raise UnauthenticatedError("The session token was issued to another origin.")

    def _may_lack_party(self, claims: Mapping[str, Any]) -> bool:
        return self._allow_missing_azp and "azp" not in claims


class SignedPayload(NamedTuple):
    """What a key has signed."""

    key_id: str | None
    key: RSAPublicKey | None
    payload: bytes


async def verify_signature(token: str, keys: SigningKeys) -> SignedPayload:
    """What one of `keys` has signed as a compact RS256 JWS.

    No key is looked for until the token has the right form. Raises UnauthenticatedError, or RetryLaterError while the
    keys cannot be had.
    """
    unverified = CompactJws.parse(token)
    key = await keys.find(unverified.key_id)
    return SignedPayload(unverified.key_id, key, unverified.payload(key))


def _read_object(payload: bytes) -> dict[str, Any]:
    try:
        claims = strict_json.loads(payload)
    except strict_json.StrictJSONError:
        raise _invalid() from None
    if not isinstance(claims, dict):
        raise _invalid()
    return claims


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    if now - _read_time(claims, "exp") > LEEWAY_SECONDS:
        # Ours once: a front end that sends it for many users must hear that it is time for a new one.
        raise UnauthenticatedError("The session token is not valid.", counts=False)
    if max(_read_time(claims, "nbf"), _read_time(claims, "iat")) - now > LEEWAY_SECONDS:
        raise _invalid()


def _read_time(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519 section 2); `True` is a number to Python alone."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise _invalid()
    return value


def _read_identifier(claims: Mapping[str, Any], name: str) -> str:
    """At most 255 printable ASCII characters (OpenID Connect Core section 2, of `sub`)."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTIFIER_CHARACTERS:
        raise _invalid()
    if not value.isascii() or not value.isprintable():
        raise _invalid()
    return value


def _read_impersonator(claims: Mapping[str, Any]) -> str | None:
    """Who acts as the subject (RFC 8693 section 4.1). One who cannot be named is refused, never taken for the user."""
    if "act" not in claims:
        return None
    actor = claims["act"]
    if not isinstance(actor, dict):
        raise _invalid()
    return _read_identifier(actor, "sub")


def _read_verification_age(claims: Mapping[str, Any]) -> tuple[int, int] | None:
    ages = claims.get("fva")
    if not isinstance(ages, list) or len(ages) != 2 or not all(type(age) is int and age >= -1 for age in ages):
        return None
    return ages[0], ages[1]


def _invalid() -> UnauthenticatedError:
    """Build the one error for every defect, so that it teaches a forger nothing."""
    return UnauthenticatedError("The session token is not valid.")
