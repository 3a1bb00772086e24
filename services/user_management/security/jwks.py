"""The signing keys of an issuer: fetched once for everybody, kept when it is down, never evicted by a forgery."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final, Protocol

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWTError

from services.user_management.core.clock import Clock
from services.user_management.exceptions import KeySetUnavailableError, RetryLaterError, StartupError

MIN_RSA_BITS: Final = 2048
FRESH_SECONDS: Final = 300.0
STALE_SECONDS: Final = 86_400.0
COOL_DOWN_SECONDS: Final = 30.0

log = structlog.get_logger(__name__)


class SigningKeys(Protocol):
    """Finds the public key for a `kid`."""

    async def find(self, key_id: str | None) -> RSAPublicKey | None:
        """The key, or None when the issuer has no such key."""


class PinnedKey:
    """One PEM public key from configuration: no network, every `kid` maps to it."""

    def __init__(self, pem: str) -> None:
        try:
            key = load_pem_public_key(pem.replace("\\n", "\n").encode())
        except (ValueError, UnsupportedAlgorithm):
            raise StartupError("CLERK_JWT_KEY: is not a PEM public key") from None
        if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
            raise StartupError("CLERK_JWT_KEY: must be an RSA public key of at least 2048 bits")
        self._key = key

    async def find(self, key_id: str | None) -> RSAPublicKey | None:  # noqa: ARG002 - one key for all
        return self._key


class RemoteKeySet:
    """A JWKS (RFC 7517) behind a URL.

    A known `kid` never waits for the network: a stale set is renewed in the background and served meanwhile, for up
    to 24 h. An unknown `kid` causes at most one fetch per 30 s, whoever asks and however often.
    """

    def __init__(self, fetch: Callable[[], Awaitable[dict[str, Any]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> RSAPublicKey | None:
        if key_id is None:
            return None
        age = self._clock.monotonic() - self._fetched_at
        key = self._keys.get(key_id) if age < STALE_SECONDS else None
        if key is not None:
            if age > FRESH_SECONDS:
                self._start_refresh()
            return key
        task = self._start_refresh()
        if task is not None:
            await asyncio.shield(task)
        if self._clock.monotonic() - self._fetched_at >= STALE_SECONDS:
            # Never fetched, or too long ago to be trusted: the issuer may have withdrawn any of them.
            raise KeySetUnavailableError(retry_after=int(COOL_DOWN_SECONDS))
        return self._keys.get(key_id)

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """The refresh under way, a new one, or None inside the cool-down."""
        if self._refresh is not None and not self._refresh.done():
            return self._refresh
        now = self._clock.monotonic()
        if now - self._tried_at < COOL_DOWN_SECONDS:
            return None
        self._tried_at = now
        # Shared between requests: it must not inherit one caller's context, nor die with one caller.
        self._refresh = asyncio.get_running_loop().create_task(self._load(), context=Context())
        return self._refresh

    async def _load(self) -> None:
        try:
            document = await self._fetch()
            keys = parse_key_set(document)
        except (RetryLaterError, ValueError) as error:
            log.warning("jwks.fetch_failed", reason=str(error))
            return
        self._keys = keys
        self._fetched_at = self._clock.monotonic()


def parse_key_set(document: dict[str, Any]) -> dict[str, RSAPublicKey]:
    """RS256 verification keys by `kid`. Other keys are passed over; raises ValueError when none is left.

    PyJWT alone would verify with keys whose `use` or `key_ops` forbid it (RFC 7517 sections 4.2 and 4.3), so they
    are filtered here, as are duplicate ids and weak moduli.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    usable = [entry for entry in entries if isinstance(entry, dict) and _may_verify(entry)]
    key_ids = [entry["kid"] for entry in usable]
    keys: dict[str, RSAPublicKey] = {}
    for entry in usable:
        key = _load_key(entry)
        if key is not None and key_ids.count(entry["kid"]) == 1:
            keys[entry["kid"]] = key
    if not keys:
        raise ValueError("no usable RS256 key in the set")
    return keys


def _may_verify(entry: dict[str, Any]) -> bool:
    operations = entry.get("key_ops")
    return (
        entry.get("kty") == "RSA"
        and isinstance(entry.get("kid"), str)
        and entry.get("use", "sig") == "sig"
        and entry.get("alg", "RS256") == "RS256"
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )


def _load_key(entry: dict[str, Any]) -> RSAPublicKey | None:
    public = {name: entry.get(name) for name in ("kty", "kid", "n", "e")}
    try:
        key = PyJWK(public, algorithm="RS256").key
    except (PyJWTError, ValueError, TypeError):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS else None
