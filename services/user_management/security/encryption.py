"""The encryption of the vault, which keeps tokens and other short secrets: AES-256-GCM, with every ciphertext bound to
its purpose, user, place, kind and key version.

Layout of a ciphertext, in bytes: format (1) · key version (4, big endian) · nonce (12) · ciphertext and tag (n + 16).

Keys: a version's 32-byte secret goes once through PBKDF2 (the root, about 0.1 s, at boot); each user's key is
HKDF-Expand(root, user id), which takes microseconds. KDF parameters belong to the key version, never to a ciphertext.
"""

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError

PBKDF2_ITERATIONS: Final = 600_000
"""The figure of the OWASP Password Storage Cheat Sheet for PBKDF2-HMAC-SHA256."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Nonces are 96 random bits (NIST SP 800-38D section 8.2.2); a user's key encrypts far fewer than 2**32 values."""
TAG_BYTES: Final = 16
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a ciphertext belongs to. Decryption succeeds only with the very same binding."""

    purpose: str
    user_id: str
    place: str = ""
    """The id of the integration, flow or subscription; empty if there is none."""
    kind: str = ""
    """The kind of token; empty for other secrets."""

    def associated_data(self, version: int) -> bytes:
        """Encode the binding and the key version as the cipher's associated data. Every part has a length prefix, so
        that no two bindings have the same encoding."""
        parts = (self.purpose, self.user_id, self.place, self.kind, str(version))
        encoded = [part.encode() for part in parts]
        return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A stored ciphertext, the binding it was encrypted with, and the key version that is stored beside it."""

    ciphertext: bytes
    binding: Binding
    version: int


Unreadable: TypeAlias = PoisonedCiphertextError | KeyUnavailableError
"""The error that stands in the result of a batch in place of a value that could not be decrypted."""


def derive_root_key(secret: bytes, salt: bytes) -> bytes:
    """Derive the root key of a key version, 32 bytes. This blocks for about 0.1 s, so call it only at boot."""
    return pbkdf2(secret, salt, PBKDF2_ITERATIONS)


def pbkdf2(secret: bytes, salt: bytes, iterations: int) -> bytes:
    """Compute PBKDF2-HMAC-SHA256 for one block of 32 bytes (RFC 8018 section 5.2: T_1)."""
    return hashlib.pbkdf2_hmac("sha256", secret, salt, iterations, KEY_BYTES)


def hkdf_expand(pseudorandom_key: bytes, info: bytes) -> bytes:
    """Compute HKDF-Expand with SHA-256 for one block of 32 bytes (RFC 5869 section 2.3: T(1))."""
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


def seal_bytes(cipher: AESGCM, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Encrypt with AES-256-GCM; return nonce, ciphertext and tag. Never use a nonce twice under one key."""
    return nonce + cipher.encrypt(nonce, plaintext, associated_data)


def open_bytes(cipher: AESGCM, sealed: bytes, associated_data: bytes) -> bytes:
    """Decrypt what `seal_bytes` returned. Raises PoisonedCiphertextError if the bytes were changed, or made with
    another key or other associated data."""
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise PoisonedCiphertextError
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated_data)
    except InvalidTag:
        raise PoisonedCiphertextError from None


def generate_secret() -> bytes:
    """Make the secret of a new key version: 32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)


class TokenEncryption:
    """Encrypts and decrypts under the key versions that this process holds: `roots` maps each version to its root
    key."""

    def __init__(self, roots: Mapping[int, bytes]) -> None:
        self._roots = dict(roots)

    @classmethod
    def from_secrets(cls, secrets_by_version: Mapping[int, bytes], salt: bytes) -> "TokenEncryption":
        """Derive the root key of every version, which takes about 0.1 s each."""
        return cls({version: derive_root_key(secret, salt) for version, secret in secrets_by_version.items()})

    @property
    def versions(self) -> Iterable[int]:
        """Return the key versions that this process can use, ascending."""
        return sorted(self._roots)

    def derive_user_key(self, user_id: str, version: int) -> bytes:
        """Derive the user's 32-byte key. Raises KeyUnavailableError for a version this process does not hold."""
        try:
            root = self._roots[version]
        except KeyError:
            raise KeyUnavailableError(extra={"key_version": version}) from None
        return hkdf_expand(root, user_id.encode())

    def encrypt_token(self, plaintext: str, binding: Binding, version: int) -> bytes:
        """Encrypt `plaintext` under `version`, so that only the same `binding` decrypts it. Raises KeyUnavailableError
        for a version that this process does not hold."""
        return _seal(AESGCM(self.derive_user_key(binding.user_id, version)), plaintext, binding, version)

    def decrypt_token(self, ciphertext: bytes, binding: Binding, version: int) -> str:
        """Decrypt a value stored with key `version`.

        Raises KeyUnavailableError when this process does not hold `version` (the operator's error), and
        PoisonedCiphertextError when the bytes are not what was written for this binding.
        """
        return _unseal(AESGCM(self.derive_user_key(binding.user_id, version)), Sealed(ciphertext, binding, version))

    def decrypt_many(self, items: Iterable[Sealed]) -> list[str | Unreadable]:
        """Decrypt each item, with one key derivation per user and version. For an item that fails, the result holds the
        error in its place."""
        ciphers = _Ciphers(self)
        return [_opened(ciphers, item) for item in items]

    def reencrypt_many(self, items: Iterable[Sealed], version: int) -> list[bytes | Unreadable]:
        """Decrypt each item and encrypt it under `version`. For an item that cannot be decrypted, the result holds the
        error in its place.

        Raises KeyUnavailableError if an item was decrypted, but this process does not hold `version`.
        """
        ciphers = _Ciphers(self)
        renewed: list[bytes | Unreadable] = []
        for item in items:
            opened = _opened(ciphers, item)
            if isinstance(opened, str):
                renewed.append(_seal(ciphers.of(item.binding.user_id, version), opened, item.binding, version))
            else:
                renewed.append(opened)
        return renewed


class _Ciphers:
    """The ciphers of one batch, one per user and version. They live no longer than the batch, so that users' keys do
    not stay in memory."""

    def __init__(self, encryption: TokenEncryption) -> None:
        self._encryption = encryption
        self._ciphers: dict[tuple[str, int], AESGCM] = {}

    def of(self, user_id: str, version: int) -> AESGCM:
        """Return the cipher of one user and version. Raises KeyUnavailableError."""
        cipher = self._ciphers.get((user_id, version))
        if cipher is None:
            cipher = AESGCM(self._encryption.derive_user_key(user_id, version))
            self._ciphers[user_id, version] = cipher
        return cipher


def _seal(cipher: AESGCM, plaintext: str, binding: Binding, version: int) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = seal_bytes(cipher, nonce, plaintext.encode(), binding.associated_data(version))
    return _HEADER.pack(_FORMAT, version) + sealed


def _unseal(cipher: AESGCM, item: Sealed) -> str:
    header, sealed = item.ciphertext[: _HEADER.size], item.ciphertext[_HEADER.size :]
    if header != _HEADER.pack(_FORMAT, item.version):
        raise PoisonedCiphertextError
    try:
        return open_bytes(cipher, sealed, item.binding.associated_data(item.version)).decode()
    except UnicodeDecodeError:
        raise PoisonedCiphertextError from None


def _opened(ciphers: _Ciphers, item: Sealed) -> str | Unreadable:
    try:
        return _unseal(ciphers.of(item.binding.user_id, item.version), item)
    except (PoisonedCiphertextError, KeyUnavailableError) as error:
        return error
