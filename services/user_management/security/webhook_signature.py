"""Makes Standard Webhooks signatures (Svix), and verifies them strictly, with one error for malformed headers and one
for a signature that does not match or a time that is too far off."""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Final

from services.user_management.exceptions import InvalidSignatureError, InvalidWebhookHeadersError, StartupError

TOLERANCE_SECONDS: Final = 300
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
SECRET_BYTES: Final = 32
_MESSAGE_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_SIGNATURE: Final = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")
_VERSIONED: Final = re.compile(r"v[0-9]+[a-z]?,[A-Za-z0-9+/=_-]{1,512}")


def new_secret() -> str:
    """Make a signing secret for a receiver: `whsec_` and base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(signing_secrets: Iterable[str], *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: a `v1` entry under each secret, since a receiver may still hold a former
    one.

    `timestamp` is in Unix seconds. Source: the Standard Webhooks specification, "Signature scheme".
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True) for secret in signing_secrets]
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys)


class WebhookVerifier:
    """Checks `v1` signatures under any of several active secrets, each `whsec_` and base64. Raises StartupError if a
    secret is malformed or there is none."""

    def __init__(self, signing_secrets: Iterable[str]) -> None:
        self._keys = [_decode_secret(secret) for secret in signing_secrets]
        if not self._keys:
            raise StartupError("CLERK_WEBHOOK_SIGNING_SECRET: holds no secret")

    def verify(self, *, message_id: str, timestamp: str, signatures: str, body: bytes, now: float) -> None:
        """Raise unless `signatures` holds a valid `v1` signature of this message, sent within 5 minutes of `now`.

        `now` is Unix seconds. Raises InvalidWebhookHeadersError (malformed) or InvalidSignatureError.
        """
        candidates = check_headers(message_id=message_id, timestamp=timestamp, signatures=signatures, now=now)
        head = f"{message_id}.{timestamp}.".encode()
        expected = [_signature(key, head, body) for key in self._keys]
        matches = [hmac.compare_digest(given, wanted) for given in candidates for wanted in expected]
        if not any(matches):
            raise InvalidSignatureError


def _signature(key: bytes, head: bytes, body: bytes) -> bytes:
    """Return the HMAC of `head` and `body`. Unlike `hmac.digest`, `update` lets other threads run meanwhile."""
    signature = hmac.new(key, head, "sha256")
    signature.update(body)
    return signature.digest()


def check_headers(*, message_id: str, timestamp: str, signatures: str, now: float) -> list[bytes]:
    """Check a message's headers as far as that is possible without its body, and return its `v1` signatures, which may
    be none.

    `now` is Unix seconds. Raises InvalidWebhookHeadersError (malformed) or InvalidSignatureError (sent more than 5
    minutes away from `now`).
    """
    candidates = _parse_signatures(signatures)
    if not _MESSAGE_ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise InvalidWebhookHeadersError
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise InvalidSignatureError("The webhook's timestamp is more than 5 minutes away from now.")
    return candidates


def _parse_signatures(header: str) -> list[bytes]:
    """Return the `v1` entries of a space-separated list; entries of other versions are passed over. Raises
    InvalidWebhookHeadersError."""
    entries = header.split(" ")
    if len(entries) > 16 or not all(_VERSIONED.fullmatch(entry) for entry in entries):
        raise InvalidWebhookHeadersError
    matches = [_SIGNATURE.fullmatch(entry) for entry in entries]
    return [base64.b64decode(match[1], validate=True) for match in matches if match]


def _decode_secret(secret: str) -> bytes:
    """Decode the HMAC key in `whsec_<base64>`. Raises StartupError."""
    prefix, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix != "whsec" or len(key) < 16:
        raise StartupError("CLERK_WEBHOOK_SIGNING_SECRET: must be whsec_ and base64 of at least 16 bytes")
    return key
