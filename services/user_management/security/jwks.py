"""The public keys by which an issuer's signatures are verified: one that is pinned in the configuration, or those that
the issuer publishes. The latter are fetched once for all callers, kept for a day while the issuer is down, and not
fetched over and over when forged tokens name keys that do not exist."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final, Protocol

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from services.user_management.core.clock import Clock
from services.user_management.exceptions import KeySetUnavailableError, RetryLaterError, StartupError
from services.user_management.security.jws import decode_base64url
from services.user_management.security.rsa_strength import is_strong

FRESH_SECONDS: Final = 300.0
STALE_SECONDS: Final = 86_400.0
COOL_DOWN_SECONDS: Final = 30.0
NEGATIVE_SECONDS: Final = 45.0
"""For how long after a fetch a `kid` (key id) that was not in the response is treated as unknown without another fetch.
A newly published key works once both this and the cool-down have passed since the last fetch before its publication:
within 45 s, plus the fetch."""
MAX_ABSENT_KEY_IDS: Final = 1000
MAX_NUMBER_CHARACTERS: Final = 4096

log = structlog.get_logger(__name__)


class SigningKeys(Protocol):
    """Finds the public key for a `kid` (key id)."""

    async def find(self, key_id: str | None) -> RSAPublicKey | None:
        """Return the key; None if the issuer has no such key. Raises KeySetUnavailableError if that is unknown because
        the issuer's keys cannot be fetched."""


class RenewedKeys(SigningKeys, Protocol):
    """Signing keys with a task that keeps them current."""

    async def keep_fresh(self) -> None:
        """Renew the keys periodically until the task is cancelled; return at once if they never change."""


class PinnedKey:
    """One PEM public key from the setting CLERK_JWT_KEY, used for every `kid`, without network. Raises StartupError
    when it is not a strong RSA public key."""

    def __init__(self, pem: str) -> None:
        try:
            key = load_pem_public_key(pem.replace("\\n", "\n").encode())
        except (ValueError, UnsupportedAlgorithm):
            raise StartupError("CLERK_JWT_KEY: is not a PEM public key") from None
        if not isinstance(key, RSAPublicKey) or not is_strong(key):
            raise StartupError("CLERK_JWT_KEY: must be a strong RSA public key of at least 2048 bits")
        self._key = key

    async def find(self, key_id: str | None) -> RSAPublicKey | None:  # noqa: ARG002 - one key for all
        return self._key

    async def keep_fresh(self) -> None:
        """Return at once: a pinned key is never renewed."""


class RemoteKeySet:
    """A JWKS (RFC 7517) behind a URL.

    A known `kid` never waits for the network: a set older than five minutes is renewed in the background and stays in
    use meanwhile, for up to 24 h. An unknown `kid` waits for a fetch. But no fetch begins within 30 s of another one,
    whoever asks and however often, nor within 45 s of an answer that lacked this `kid`.
    """

    def __init__(self, fetch: Callable[[], Awaitable[dict[str, Any]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, RSAPublicKey] = {}
        self._absent_since: dict[str, float] = {}
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
        if self._is_known_absent(key_id):
            return None
        task = self._start_refresh()
        if task is not None:
            await asyncio.shield(task)
        if self._clock.monotonic() - self._fetched_at >= STALE_SECONDS:
            # Never fetched, or too long ago to be trusted: the issuer may have withdrawn any of them.
            raise KeySetUnavailableError(retry_after=int(COOL_DOWN_SECONDS))
        key = self._keys.get(key_id)
        if key is None:
            self._note_absent(key_id)
        return key

    async def keep_fresh(self) -> None:
        """Fetch the keys every five minutes, so that a process that was idle does not accept a withdrawn key."""
        while True:
            self._start_refresh()
            await asyncio.sleep(FRESH_SECONDS)

    def _is_known_absent(self, key_id: str) -> bool:
        since = self._absent_since.get(key_id)
        return since is not None and self._clock.monotonic() - since < NEGATIVE_SECONDS

    def _note_absent(self, key_id: str) -> None:
        """Note that the issuer does not have this key, as of the last fetch and not as of now: a key that was published
        since that fetch must not wait longer."""
        self._absent_since.pop(key_id, None)
        self._absent_since[key_id] = self._fetched_at
        if len(self._absent_since) > MAX_ABSENT_KEY_IDS:
            # The oldest entry is dropped: a flood of forged ids may displace genuine ones here, but the cool-down still
            # bounds the fetches.
            del self._absent_since[next(iter(self._absent_since))]

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, or start one; None during the cool-down."""
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
    """Return the RS256 verification keys by `kid`; other keys are left out. Raises ValueError if none is left.

    Left out are keys whose `use`, `key_ops` or `alg` forbid it (RFC 7517 sections 4.2 to 4.4), weak keys, keys whose id
    another key has too, and private keys, since everybody knows a private key that was published.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    usable = [entry for entry in entries if isinstance(entry, dict) and _may_verify(entry)]
    uses = Counter(entry["kid"] for entry in usable)
    keys: dict[str, RSAPublicKey] = {}
    for entry in usable:
        key = _load_key(entry)
        if key is not None and uses[entry["kid"]] == 1:
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
        and "d" not in entry
    )


def _load_key(entry: dict[str, Any]) -> RSAPublicKey | None:
    try:
        key = RSAPublicNumbers(n=_unsigned(entry.get("n")), e=_unsigned(entry.get("e"))).public_key()
    except ValueError:
        return None
    return key if is_strong(key) else None


def _unsigned(value: Any) -> int:
    """Read a Base64urlUInt (RFC 7518 section 2). Raises ValueError."""
    if not isinstance(value, str) or len(value) > MAX_NUMBER_CHARACTERS:
        raise ValueError("not a Base64urlUInt")
    return int.from_bytes(decode_base64url(value), "big")
