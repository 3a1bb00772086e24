"""Fuzz target for Clerk's webhooks: any request without a valid signature is refused, and any body under a valid one
becomes an event or is refused; a refusal is always an error of our catalogue."""

import base64
import hashlib
import hmac
import json
import time
from typing import Final

from fastapi import FastAPI, Request
from pydantic import ValidationError

from services.user_management.auth.webhook_auth import _verified, verify_clerk_webhook
from services.user_management.container import Container
from services.user_management.exceptions import (
    InvalidJSONError,
    InvalidSignatureError,
    InvalidWebhookHeadersError,
    ValidationFailedError,
)
from services.user_management.schemas.webhook import ClerkUser
from services.user_management.settings import load_settings
from services.user_management.tests.fuzz.wire import Header, finish, lines_of, request_of

_HEADERS: Final = (b"svix-id", b"svix-timestamp", b"svix-signature", b"content-type")
_NOW: Final = b"now"
"""Stands for the time of the run. With any other timestamp, nothing behind the check of the timestamp would run."""
_KEY: Final = bytes(range(32))
_SECRET: Final = f"whsec_{base64.b64encode(_KEY).decode()}"
_SIGNED: Final = 0x73
"""First byte of an input whose remainder is a body that gets a valid signature; any other begins with headers."""

_USER: Final = {
    "id": "user_1",
    "first_name": "Ada",
    "image_url": "https://img.example/1",
    "primary_email_address_id": "idn_1",
    "email_addresses": [
        {"id": "idn_1", "email_address": "ada@example.com", "verification": {"status": "verified"}},
    ],
    "primary_phone_number_id": "idn_2",
    "phone_numbers": [{"id": "idn_2", "phone_number": "+15555550100"}],
    "banned": False,
    "updated_at": 1_700_000_000_000,
}


def _event(kind: str, member: object) -> bytes:
    return json.dumps({"type": kind, "timestamp": 1_700_000_000, "data": member}).encode()


def seeds() -> list[bytes]:
    """Return bodies of three types of events, which get a valid signature, and unsigned requests that are refused by
    different checks."""
    return [
        bytes([_SIGNED]) + _event("user.created", _USER),
        bytes([_SIGNED]) + _event("user.deleted", {"id": "user_1", "deleted": True}),
        bytes([_SIGNED])
        + _event("session.created", {"id": "sess_1", "user_id": "user_1", "created_at": 1_700_000_000_000}),
        b"\x00msg_1\n\x01now\n\x02v1," + b"A" * 43 + b"=\n\n" + _event("user.deleted", {"id": "user_1"}),
        b"\x00msg_1\n\x01now\n\x02v2,AAAA v1a,AAAA\n\n{}",
        b"\x00msg_1\n\x011700000000\n\x02v1," + b"A" * 43 + b"=\n\n{}",
    ]


def _application() -> FastAPI:
    # The graph does no I/O until it is started, which this one never is.
    settings = load_settings(_env_file=None, environment="test", clerk={"webhook_signing_secret": _SECRET})
    app = FastAPI()
    app.state.container = Container(settings)
    return app


_APP: Final = _application()


def _now() -> bytes:
    return str(int(time.time())).encode()


def _signature(body: bytes) -> list[Header]:
    timestamp = _now()
    signature = hmac.digest(_KEY, b"msg_1." + timestamp + b"." + body, hashlib.sha256)
    values = (b"msg_1", timestamp, b"v1," + base64.b64encode(signature))
    return list(zip(_HEADERS, values, strict=False))


def _unsigned(data: bytes) -> Request:
    """Build a request from lines of headers up to an empty line, followed by the body."""
    head, _, body = data.partition(b"\n\n")
    headers = [(name, _now() if value == _NOW else value) for name, value in lines_of(head, _HEADERS)]
    return request_of(headers, body, app=_APP)


def _forge(data: bytes) -> None:
    """Verify a forged webhook as the route does, but without counting the refusal in Redis. Raises AssertionError if it
    is accepted."""
    try:
        finish(_verified(_unsigned(data)))
    except (InvalidWebhookHeadersError, InvalidSignatureError):
        return
    raise AssertionError("believed without a signature of ours")


def _send(body: bytes) -> None:
    try:
        verified = finish(verify_clerk_webhook(request_of(_signature(body), body, app=_APP)))
    except (InvalidJSONError, ValidationFailedError):
        return
    json.dumps(verified.payload, allow_nan=False, ensure_ascii=False).encode()
    try:
        user = ClerkUser.model_validate(verified.event.data)
    except ValidationError:
        return
    for value in (user.primary_email, user.primary_phone):
        assert value is None or value


def fuzz_one(data: bytes) -> None:
    """Verify and read one webhook. Raises every error that is not an expected refusal, and AssertionError if a forgery
    is accepted."""
    if data[:1] == bytes([_SIGNED]):
        _send(data[1:])
    else:
        _forge(data)
