"""Fuzz target: a service key is accepted only from a request with exactly one, in Authorization or in X-Api-Key."""

from typing import Final

from services.user_management.auth.service_auth import service_credential
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.security.signing import sha256
from services.user_management.tests.fuzz.wire import lines_of, request_of

_NAMES: Final = (b"authorization", b"x-api-key", b"cookie")
_KEY: Final = b"ums_0123456789ab_" + b"c" * 64


def seeds() -> list[bytes]:
    """Return inputs with a key in the right place, with two keys, and with a key in a wrong place."""
    # The first byte of a line chooses its header: it is an index of _NAMES.
    return [
        b"\x00Bearer " + _KEY,
        b"\x00bearer " + _KEY,
        b"\x01" + _KEY,
        b"\x01" + _KEY + b"\n\x00Bearer " + _KEY,
        b"\x00Bearer " + _KEY + b"\n\x00Bearer " + _KEY,
        b"\x02__session=" + _KEY,
    ]


def fuzz_one(data: bytes) -> None:
    """Read the service key of a request with the headers in `data`. If a key is accepted, raises ValueError unless it
    is in the only header besides cookies, and AssertionError unless it was read correctly."""
    headers = lines_of(data, _NAMES)
    try:
        credential = service_credential(request_of(headers))
    except UnauthenticatedError:
        return
    ((name, value),) = [header for header in headers if header[0] != b"cookie"]
    key = value if name == b"x-api-key" else value.partition(b" ")[2]
    _, key_id, secret = key.decode("ascii").split("_")
    assert (credential.key_id, credential.secret_hash) == (key_id, sha256(secret))
