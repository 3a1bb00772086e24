"""Verification of Clerk's session tokens (RFC 7519, RFC 8725). Whatever an attacker could choose is fixed here or by
the configuration and not taken from the token: algorithm, issuer, authorized parties."""

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
"""How many verified tokens are remembered, of about 2 KB each. Beyond that the oldest is forgotten, and is verified
again if it comes back."""
_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999: a later NumericDate is a mistake, and some are too large for a float to hold exactly."""


@dataclass(frozen=True, slots=True)
class SessionClaims:
    """What a verified session token says.

    `impersonator` is the subject of the person who acts as the user; None for nobody. `factor_verification_age`:
    minutes since the first and the second factor were given, -1 for never; None if the token does not say. `claims` are
    all claims of the token.
    """

    issuer: str
    subject: str
    session_id: str
    impersonator: str | None
    organization: Organization | None
    factor_verification_age: tuple[int, int] | None
    claims: dict[str, Any]


class _Verified(NamedTuple):
    """The claims of a token, and the key by which it was verified."""

    key_id: str | None
    key: RSAPublicKey | None
    session: SessionClaims


class SessionVerifier:
    """Verifies the session tokens of one Clerk instance, whose signing keys are `keys`.

    `issuer` may be several issuers, for an instance that is reachable under several addresses. Another instance needs
    another verifier, since its keys must not vouch for this instance's users. `authorized_parties` are the origins that
    may be in `azp`; with `allow_missing_azp` a token without `azp` is accepted too.
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
        """Return the claims of a valid token, and remember that it was verified.

        Raises UnauthenticatedError for an invalid token, SessionPendingError for a session whose user has not finished
        signing in, and KeySetUnavailableError while the issuer's keys cannot be fetched.
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
        """Return the claims of a token that was verified before, if the issuer still has the very key that verified it;
        None for any other token.

        A session token comes with every request during its life of a minute. What can change is checked each time: the
        key here, the times by the caller. Tokens are remembered by their hashes, so that memory holds no tokens. Raises
        KeySetUnavailableError.
        """
        known = self._verified.get(digest)
        if known is None:
            return None
        if await self._keys.find(known.key_id) is known.key:
            return known.session
        self._verified.pop(digest, None)
        return None

    async def _read(self, token: str, digest: bytes) -> SessionClaims:
        """Verify everything about a token that does not change with time, and remember and return its claims. Raises
        UnauthenticatedError, KeySetUnavailableError."""
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
        """Check `iss` and `azp`. A token with `aud` is refused, since it was made for somebody else: it is an ID token,
        or made from one of Clerk's JWT templates. Raises UnauthenticatedError."""
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer not in self._issuers or "aud" in claims:
            raise _invalid()
        party = claims.get("azp")
        if not (party in self._authorized_parties if isinstance(party, str) else self._may_lack_party(claims)):
            raise UnauthenticatedError("The session token was issued to another origin.")

    def _may_lack_party(self, claims: Mapping[str, Any]) -> bool:
        return self._allow_missing_azp and "azp" not in claims


class SignedPayload(NamedTuple):
    """The payload of a signed token, and the key that has signed it."""

    key_id: str | None
    key: RSAPublicKey | None
    payload: bytes


async def verify_signature(token: str, keys: SigningKeys) -> SignedPayload:
    """Verify a compact RS256 JWS with one of `keys`, and return its payload and the key.

    No key is looked up until the token has the right form. Raises UnauthenticatedError, or KeySetUnavailableError while
    the keys cannot be fetched.
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
        # The token was valid once, so it is no guess: a front end that sends it for many users must not be shut out.
        raise UnauthenticatedError("The session token is not valid.", counts=False)
    if max(_read_time(claims, "nbf"), _read_time(claims, "iat")) - now > LEEWAY_SECONDS:
        raise _invalid()


def _read_time(claims: Mapping[str, Any], name: str) -> float:
    """Read a NumericDate (RFC 7519 section 2). `True` is refused, although Python takes it for a number. Raises
    UnauthenticatedError."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise _invalid()
    return value


def _read_identifier(claims: Mapping[str, Any], name: str) -> str:
    """Read a claim of 1 to 255 printable ASCII characters, as OpenID Connect Core section 2 demands of `sub`. Raises
    UnauthenticatedError."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTIFIER_CHARACTERS:
        raise _invalid()
    if not value.isascii() or not value.isprintable():
        raise _invalid()
    return value


def _read_impersonator(claims: Mapping[str, Any]) -> str | None:
    """Return who acts as the subject (RFC 8693 section 4.1); None for nobody. An `act` claim that names nobody is
    refused with UnauthenticatedError, so that an impersonator is never taken for the user."""
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
    """Build the error that is the same for nearly every defect, so that it teaches a forger nothing."""
    return UnauthenticatedError("The session token is not valid.")
