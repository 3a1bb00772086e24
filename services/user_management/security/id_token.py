"""Verification of ID tokens, in which OpenID providers say whose account a user has connected (OpenID Connect Core
section 3.1.3.7). Signatures are verified by the same code as those of session tokens."""

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from services.user_management.core.clock import Clock
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.http_client import HttpClient, fetch_json
from services.user_management.security.jwks import RemoteKeySet
from services.user_management.security.jwt import verify_signature
from services.user_management.utils import strict_json

LEEWAY_SECONDS: Final = 120
"""How far the provider's clock may differ from ours, in seconds. More is allowed than for session tokens, since an ID
token is used once, with its nonce."""
_LAST_SECOND: Final = 253_402_300_799
_OPEN, _CLOSE = "{", "}"


class IdTokenProblem(StrEnum):
    """What is wrong with an ID token."""

    SIGNATURE = "signature"
    """The token is not a JWS with RS256, or not signed by a key of the provider."""
    CLAIMS = "claims"
    """A claim is missing or not of its type."""
    ISSUER = "issuer"
    AUDIENCE = "audience"
    PARTY = "azp"
    NONCE = "nonce"
    ACCESS_TOKEN = "at_hash"  # noqa: S105 - the name of a claim
    EXPIRED = "expired"
    FUTURE = "issued_in_the_future"


class IdTokenError(Exception):
    """Raised for an ID token that is refused."""

    def __init__(self, problem: IdTokenProblem) -> None:
        self.problem = problem
        super().__init__(problem.value)


@dataclass(frozen=True, slots=True)
class IdTokenExpectation:
    """What an ID token is verified against."""

    jwks_uri: str
    issuers: Collection[str]
    """The accepted spellings of `iss`; `{claim}` stands for the value of that claim in the token."""
    client_id: str
    nonce: str | None
    """The nonce that was sent; None if none was sent, and then the token must have none."""
    access_token: str
    """The access token that came with the ID token; if the token has `at_hash`, that must be the hash of this one."""
    received_at: datetime
    """When the ID token arrived, by our clock; the token must not have expired more than LEEWAY_SECONDS before."""


@dataclass(frozen=True, slots=True)
class IdToken:
    """A verified ID token."""

    subject: str
    claims: Mapping[str, Any]
    clock_skew_seconds: int
    """The provider's clock minus ours, judged by the token's time of issue; it includes the time that the answer
    took."""


class IdTokenVerifier:
    """Verifies ID tokens of any issuer, with the keys at the `jwks_uri` that the caller expects."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._key_sets: dict[str, RemoteKeySet] = {}

    async def verify(self, token: str, expected: IdTokenExpectation) -> IdToken:
        """Verify an ID token against `expected`, and return what it says. Raises IdTokenError, or
        KeySetUnavailableError while the provider's keys cannot be fetched."""
        try:
            signed = await verify_signature(token, self._key_set(expected.jwks_uri))
        except UnauthenticatedError:
            raise IdTokenError(IdTokenProblem.SIGNATURE) from None
        claims = _read_object(signed.payload)
        _check_parties(claims, expected)
        _check_bindings(claims, expected)
        return IdToken(
            subject=_read_subject(claims),
            claims=claims,
            clock_skew_seconds=round(_check_times(claims, expected.received_at.timestamp())),
        )

    def _key_set(self, jwks_uri: str) -> RemoteKeySet:
        key_set = self._key_sets.get(jwks_uri)
        if key_set is None:
            key_set = RemoteKeySet(lambda: fetch_json(self._http, jwks_uri), self._clock)
            self._key_sets[jwks_uri] = key_set
        return key_set


def _read_object(payload: bytes) -> dict[str, Any]:
    try:
        claims = strict_json.loads(payload)
    except strict_json.StrictJSONError:
        raise IdTokenError(IdTokenProblem.CLAIMS) from None
    if not isinstance(claims, dict):
        raise IdTokenError(IdTokenProblem.CLAIMS)
    return claims


def _read_subject(claims: Mapping[str, Any]) -> str:
    """Return `sub`, which must be 1 to 255 ASCII characters (section 2). Raises IdTokenError."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isascii():
        raise IdTokenError(IdTokenProblem.CLAIMS)
    return subject


def _check_parties(claims: Mapping[str, Any], expected: IdTokenExpectation) -> None:
    """Check `iss`, `aud` and `azp` (points 2 to 5 of the section). Raises IdTokenError."""
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in {_spelled(template, claims) for template in expected.issuers}:
        raise IdTokenError(IdTokenProblem.ISSUER)
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or expected.client_id not in audiences:
        raise IdTokenError(IdTokenProblem.AUDIENCE)
    party = claims.get("azp")
    if party != expected.client_id and (party is not None or len(audiences) > 1):
        raise IdTokenError(IdTokenProblem.PARTY)


def _spelled(template: str, claims: Mapping[str, Any]) -> str | None:
    """Fill the token's own claims into the template, and return the result; None if a claim is missing, or holds
    anything but letters, digits and hyphens."""
    while _OPEN in template:
        before, _, rest = template.partition(_OPEN)
        name, _, after = rest.partition(_CLOSE)
        value = claims.get(name)
        if not isinstance(value, str) or not value.replace("-", "").isalnum():
            return None
        template = f"{before}{value}{after}"
    return template


def _check_bindings(claims: Mapping[str, Any], expected: IdTokenExpectation) -> None:
    """Check that the token belongs to this request (`nonce`, point 11) and to this access token (`at_hash`, section
    3.1.3.8). Raises IdTokenError."""
    nonce = claims.get("nonce")
    if expected.nonce is None:
        if nonce is not None:
            raise IdTokenError(IdTokenProblem.NONCE)
    elif not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(errors="replace"), expected.nonce.encode()):
        raise IdTokenError(IdTokenProblem.NONCE)
    at_hash = claims.get("at_hash")
    if at_hash is None:
        return
    half = hashlib.sha256(expected.access_token.encode()).digest()[:16]
    wanted = base64.urlsafe_b64encode(half).rstrip(b"=")
    if not isinstance(at_hash, str) or not hmac.compare_digest(at_hash.encode(errors="replace"), wanted):
        raise IdTokenError(IdTokenProblem.ACCESS_TOKEN)


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    """Check `iat` and `exp` (points 9 and 10); return the time of issue minus `now`, in seconds. Raises
    IdTokenError."""
    skew = _read_time(claims, "iat") - now
    if skew > LEEWAY_SECONDS:
        raise IdTokenError(IdTokenProblem.FUTURE)
    if now - _read_time(claims, "exp") > LEEWAY_SECONDS:
        raise IdTokenError(IdTokenProblem.EXPIRED)
    return skew


def _read_time(claims: Mapping[str, Any], name: str) -> float:
    """Read a NumericDate (RFC 7519 section 2). `True` is refused, although Python takes it for a number. Raises
    IdTokenError."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise IdTokenError(IdTokenProblem.CLAIMS)
    return value
