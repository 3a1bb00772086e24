"""The guard of Clerk's webhooks: it verifies the signature, and parses the event."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from pydantic import ValidationError

from services.user_management.auth.dependencies import get_container
from services.user_management.auth.rate_limits import webhook_limit
from services.user_management.core.context import allow_body
from services.user_management.core.parsing import parse_aside
from services.user_management.exceptions import (
    BodyTooLargeError,
    DatabaseUnavailableError,
    InvalidJSONError,
    InvalidSignatureError,
    InvalidWebhookHeadersError,
    RateLimitedError,
    ValidationFailedError,
    raises,
)
from services.user_management.schemas.webhook import ClerkEvent
from services.user_management.security.webhook_signature import check_headers
from services.user_management.utils import strict_json

MAX_EVENT_BYTES: Final = 1 << 20
"""Limit of an event's body, in bytes. It is high because Clerk decides how large its events are: it would send a
refused event again for a while, and the event would be lost in the end."""
HEADER_FAMILIES: Final = ("svix", "webhook")
"""Prefixes of the headers that carry message id, timestamp and signatures: Svix's own, which Clerk sends, and that of
Standard Webhooks."""


@dataclass(frozen=True, slots=True)
class VerifiedEvent:
    """An event from Clerk whose signature is good: its message id, and its body both parsed and as plain JSON."""

    message_id: str
    event: ClerkEvent
    payload: dict[str, Any]


@raises(InvalidWebhookHeadersError, InvalidSignatureError, InvalidJSONError, RateLimitedError, DatabaseUnavailableError)
async def verify_clerk_webhook(request: Request) -> VerifiedEvent:
    """Guard: check the signature over the raw body, then parse the body. Malformed headers and a timestamp more than
    five minutes off are refused before the body is read.

    An event that Clerk signed is not counted, because Clerk would only send it again. A request that is refused for its
    headers, its signature or the size of its body is counted against the rate limit of its address. While the address
    has to wait, no body over 64 KiB is read from it, not even a signed one. Raises InvalidWebhookHeadersError (400),
    InvalidSignatureError (401), BodyTooLargeError (413), InvalidJSONError, ValidationFailedError, RateLimitedError.
    """
    try:
        message_id, body = await _verified(request)
    except (InvalidWebhookHeadersError, InvalidSignatureError, BodyTooLargeError):
        await webhook_limit(request)
        raise
    event, payload = await parse_aside(_parse, body)
    return VerifiedEvent(message_id, event, payload)


def _parse(body: bytes) -> tuple[ClerkEvent, dict[str, Any]]:
    try:
        payload = strict_json.storable(strict_json.loads(body))
        return ClerkEvent.model_validate(payload), payload
    except strict_json.StrictJSONError as error:
        raise InvalidJSONError(f"The body is {error}.") from None
    except ValidationError:
        raise ValidationFailedError("The body is not a Clerk event.") from None


async def _verified(request: Request) -> tuple[str, bytes]:
    """Check the signature over message id and body, and return these two. Raises InvalidWebhookHeadersError,
    InvalidSignatureError, BodyTooLargeError."""
    container = get_container(request)
    message_id, timestamp, signatures = _signature_headers(request)
    now = container.resources.clock.now().timestamp()
    check_headers(message_id=message_id, timestamp=timestamp, signatures=signatures, now=now)
    if not await webhook_limit.known_wait(request):
        allow_body(MAX_EVENT_BYTES)
    body = await request.body()

    def verify(raw: bytes) -> None:
        container.clerk.verifier.verify(
            message_id=message_id, timestamp=timestamp, signatures=signatures, body=raw, now=now
        )

    await parse_aside(verify, body)
    return message_id, body


def _signature_headers(request: Request) -> tuple[str, str, str]:
    """Return message id, timestamp and signatures. Raises InvalidWebhookHeadersError unless the request has exactly one
    of each, all with the same prefix.

    Headers with both prefixes are refused: only one set of them could be verified, and another program that reads the
    request might rely on the other set.
    """
    families = [
        [request.headers.getlist(f"{family}-{part}") for part in ("id", "timestamp", "signature")]
        for family in HEADER_FAMILIES
    ]
    given = [family for family in families if any(family)]
    if len(given) != 1 or any(len(values) != 1 for values in given[0]):
        raise InvalidWebhookHeadersError
    (message_id,), (timestamp,), (signatures,) = given[0]
    return message_id, timestamp, signatures


ClerkWebhook = Annotated[VerifiedEvent, Depends(verify_clerk_webhook)]
