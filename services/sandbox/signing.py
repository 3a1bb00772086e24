"""RSA signing keys, their JWK form, and compact JWS that may be wrong on purpose."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

Claims = Mapping[str, Any]
KeyOrSecret = rsa.RSAPrivateKey | bytes

_RSA_HASHES: dict[str, hashes.HashAlgorithm] = {
    "RS256": hashes.SHA256(),
    "RS384": hashes.SHA384(),
    "RS512": hashes.SHA512(),
}
_HMAC_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def base64url(raw: bytes) -> str:
    """Encode bytes as unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(number: int) -> str:
    return base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One RSA key pair with the `kid` under which it is published."""

    kid: str
    private_key: rsa.RSAPrivateKey

    @property
    def public_key_pem(self) -> str:
        """Return the public key as SubjectPublicKeyInfo PEM, the format that Clerk's dashboard shows."""
        return (
            self.private_key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @property
    def jwk(self) -> dict[str, str]:
        """Return the public key as a JWK (RFC 7517 section 4)."""
        return _public_jwk(self.private_key) | {"use": "sig", "alg": "RS256", "kid": self.kid}


def _public_jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}


def _thumbprint(key: rsa.RSAPrivateKey) -> str:
    canonical = json.dumps(_public_jwk(key), sort_keys=True, separators=(",", ":"))
    return base64url(hashlib.sha256(canonical.encode()).digest())


# Kept for the life of the process: a test suite makes a sandbox per test, and an RSA key takes about 100 ms.
_keys: dict[tuple[str, int], SigningKey] = {}


def signing_key(party: str, generation: int, *, kid_prefix: str = "") -> SigningKey:
    """Return the `generation`-th key of a party. It is made at first use, and then the same for the whole process.

    The `kid` is derived from the RFC 7638 thumbprint, so it never names two different keys.
    """
    if (party, generation) not in _keys:
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        alphanumeric = "".join(letter for letter in _thumbprint(private_key) if letter.isalnum())
        _keys[party, generation] = SigningKey(kid=kid_prefix + alphanumeric[:27], private_key=private_key)
    return _keys[party, generation]


def provider_signing_key() -> SigningKey:
    """Return the key that signs ID tokens; all providers share it."""
    return signing_key("oidc", 1)


def _segment(part: Claims) -> str:
    return base64url(json.dumps(part, separators=(",", ":"), ensure_ascii=False).encode())


def _signature(algorithm: str, key: KeyOrSecret, message: bytes) -> bytes:
    if algorithm == "none":
        return b""
    if algorithm in _HMAC_HASHES and isinstance(key, bytes):
        return hmac.new(key, message, _HMAC_HASHES[algorithm]).digest()
    if algorithm in _RSA_HASHES and isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), _RSA_HASHES[algorithm])
    raise ValueError(f"algorithm {algorithm!r} does not fit a key of type {type(key).__name__}")


def sign_jws(header: Claims, claims: Claims, *, key: KeyOrSecret, algorithm: str = "RS256") -> str:
    """Return a compact JWS (RFC 7515 section 3.1), signed with `algorithm`.

    PyJWT refuses to make the tokens that an attacker would (a public key used as HMAC secret, a claim of the wrong
    type), so the sandbox makes them by hand: `header` is written as given, even if it names another algorithm.

    Raises `ValueError` when the algorithm is unknown or does not fit the key.
    """
    message = f"{_segment(header)}.{_segment(claims)}"
    return f"{message}.{base64url(_signature(algorithm, key, message.encode()))}"
