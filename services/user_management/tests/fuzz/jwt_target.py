"""Fuzz target: verifying any session token and reading any key set raises only documented errors."""

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.sandbox.signing import base64url
from services.user_management.exceptions import RetryLaterError, SessionPendingError, UnauthenticatedError
from services.user_management.security.jwks import parse_key_set
from services.user_management.security.jwt import SessionVerifier
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.session_tokens import (
    CLAIMS,
    HEADER,
    ISSUER,
    ORIGIN,
    PRIVATE_KEY,
    encoded,
)
from services.user_management.utils import strict_json

# Small, because signing takes most of the target's time. That keys are strong is checked where key sets are read.
_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - see above
_HEADER: Final = encoded(HEADER)
_PAYLOAD: Final = encoded(CLAIMS)


class _OneKey:
    async def find(self, key_id: str | None) -> RSAPublicKey | None:  # noqa: ARG002 - one key for all
        return _KEY.public_key()


VERIFIER: Final = SessionVerifier(_OneKey(), issuer=ISSUER, authorized_parties=[ORIGIN], clock=SetClock())


def fuzz_one(data: bytes) -> None:
    """Verify or read one input. Any exception that is not a documented refusal is raised; AssertionError if the
    verification had to wait for something.

    The first byte selects what the rest is: a whole credential, a header to sign, a payload to sign, or a key set.
    """
    kind, rest = data[:1], data[1:]
    match (kind or b"\x00")[0] % 4:
        case 0:
            _verify(rest.decode("utf-8", "surrogateescape"))
        case 1:
            _verify(_signed(rest, _PAYLOAD))
        case 2:
            _verify(_signed(_HEADER, rest))
        case _:
            _read_key_set(rest)


def seeds() -> list[bytes]:
    """Return one well-formed input of each kind."""
    token = _signed(_HEADER, _PAYLOAD).encode()
    return [b"\x00" + token, b"\x01" + _HEADER, b"\x02" + _PAYLOAD, b"\x03" + _key_set()]


def _verify(token: str) -> None:
    # The verification waits for nothing, so one step runs it to its end: an event loop would cost more than that.
    verification = VERIFIER.verify(token)
    try:
        verification.send(None)
    except (StopIteration, UnauthenticatedError, SessionPendingError, RetryLaterError):
        return
    finally:
        verification.close()
    raise AssertionError("the verification waited for something")


def _read_key_set(document: bytes) -> None:
    try:
        value = strict_json.loads(document)
        parse_key_set(value if isinstance(value, dict) else {"keys": value})
    except ValueError:
        return


def _signed(header: bytes, payload: bytes) -> str:
    message = f"{base64url(header)}.{base64url(payload)}"
    return f"{message}.{base64url(_KEY.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _key_set() -> bytes:
    modulus = PRIVATE_KEY.public_key().public_numbers().n
    return encoded({"keys": [{"kty": "RSA", "kid": "k", "e": "AQAB", "n": base64url(modulus.to_bytes(256, "big"))}]})
