"""The vault: AES-256-GCM over short secrets, every ciphertext bound to its user, its place and its key version.

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
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError

PBKDF2_ITERATIONS: Final = 600_000
"""OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""96 random bits, NIST SP 800-38D section 8.2.2; a user's key encrypts far fewer than 2**32 values."""
TAG_BYTES: Final = 16
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">BI")
_OVERHEAD: Final = _HEADER.size + NONCE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a ciphertext belongs. Decryption succeeds only with the very same binding."""

    purpose: str
    user_id: str
    place: str = ""
    """Integration id, flow id, or empty."""
    kind: str = ""
    """Token kind, or empty."""

    def associated_data(self, version: int) -> bytes:
        """Length-prefixed parts, so that no two bindings share an encoding."""
        parts = (self.purpose, self.user_id, self.place, self.kind, str(version))
        encoded = [part.encode() for part in parts]
        return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


def derive_root_key(secret: bytes, salt: bytes) -> bytes:
    """PBKDF2-HMAC-SHA256 (RFC 8018 section 5.2), 600,000 rounds. Blocks for about 0.1 s: at boot only."""
    return hashlib.pbkdf2_hmac("sha256", secret, salt, PBKDF2_ITERATIONS, KEY_BYTES)


def hkdf_expand(pseudorandom_key: bytes, info: bytes) -> bytes:
    """HKDF-Expand with SHA-256 for one block of 32 bytes (RFC 5869 section 2.3: T(1))."""
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


def generate_secret() -> bytes:
    """32 random bytes for a new key version."""
    return secrets.token_bytes(KEY_BYTES)


class TokenEncryption:
    """Encrypts and decrypts under the key versions this process holds."""

    def __init__(self, roots: Mapping[int, bytes]) -> None:
        self._roots = dict(roots)

    @classmethod
    def from_secrets(cls, secrets_by_version: Mapping[int, bytes], salt: bytes) -> "TokenEncryption":
        """Derive the root of every version; about 0.1 s each."""
        return cls({version: derive_root_key(secret, salt) for version, secret in secrets_by_version.items()})

    @property
    def versions(self) -> Iterable[int]:
        """Key versions this process can use, ascending."""
        return sorted(self._roots)

    def derive_user_key(self, user_id: str, version: int) -> bytes:
        """The user's 32-byte key. Raises KeyUnavailableError for a version this process does not hold."""
        try:
            root = self._roots[version]
        except KeyError:
            raise KeyUnavailableError(extra={"key_version": version}) from None
        return hkdf_expand(root, user_id.encode())

    def encrypt_token(self, plaintext: str, binding: Binding, version: int) -> bytes:
        """Encrypt under `version`. Raises KeyUnavailableError."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = AESGCM(self.derive_user_key(binding.user_id, version))
        sealed = cipher.encrypt(nonce, plaintext.encode(), binding.associated_data(version))
        return _HEADER.pack(_FORMAT, version) + nonce + sealed

    def decrypt_token(self, ciphertext: bytes, binding: Binding, version: int) -> str:
        """Decrypt a value stored with key `version`.

        Raises KeyUnavailableError when this process does not hold `version` (the operator's error), and
        PoisonedCiphertextError when the bytes are not what was written for this binding.
        """
        cipher = AESGCM(self.derive_user_key(binding.user_id, version))
        if len(ciphertext) < _OVERHEAD or _HEADER.unpack_from(ciphertext) != (_FORMAT, version):
            raise PoisonedCiphertextError
        nonce = ciphertext[_HEADER.size : _HEADER.size + NONCE_BYTES]
        sealed = ciphertext[_HEADER.size + NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, sealed, binding.associated_data(version)).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise PoisonedCiphertextError from None
