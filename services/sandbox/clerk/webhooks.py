"""Webhooks as Clerk sends them: Standard Webhooks signatures under `svix-` header names, with a few retries."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import httpx

from services.sandbox.ledger import Entry, Ledger

ClerkEvent = dict[str, Any]

TIMEOUT_SECONDS = 5.0
RETRY_DELAYS_SECONDS = (0.1, 0.3, 1.0)


def new_webhook_secret() -> str:
    """Return a new signing secret: `whsec_` and the base64 of 24 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def encode_event(event: ClerkEvent) -> bytes:
    """Return an event as the JSON body that is signed and sent."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def hmac_key(secret: str) -> bytes:
    """Return the HMAC key of a secret. Raises `ValueError` unless the secret is `whsec_` and base64."""
    prefix, _, encoded = secret.partition("_")
    if prefix != "whsec" or not encoded:
        raise ValueError("a webhook secret is whsec_ followed by base64")
    return base64.b64decode(encoded, validate=True)


def _signature(secret: str, signed_content: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(hmac_key(secret), signed_content, hashlib.sha256).digest()).decode()


def signature_headers(body: bytes, *, message_id: str, timestamp: int, secrets: Sequence[str]) -> dict[str, str]:
    """Return the three `svix-` headers of a body; `timestamp` is in Unix seconds. Several secrets give several
    signatures, as while a secret is rotated. Raises `ValueError` for a malformed secret."""
    signed_content = f"{message_id}.{timestamp}.".encode() + body
    return {
        "svix-id": message_id,
        "svix-timestamp": str(timestamp),
        "svix-signature": " ".join(_signature(secret, signed_content) for secret in secrets),
    }


class WebhookSender:
    """Sends signed events to the service, and records each attempt in the ledger (the sandbox's record of all calls).
    The event keeps its message id over all attempts. The constructor raises `ValueError` for a malformed secret."""

    def __init__(
        self, ledger: Ledger, *, url: str | None, secret: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url
        self.secret = secret
        hmac_key(secret)  # A secret that cannot sign fails now and not at the first event.
        self._ledger = ledger
        self._transport = transport

    async def deliver(self, event: ClerkEvent, *, message_id: str) -> Entry | None:
        """Send one event until the answer is 2xx, in at most four attempts. Return the ledger entry of the last
        attempt, or `None` if no URL is configured.
        """
        if self.url is None:
            return None
        async with httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            for delay in (*RETRY_DELAYS_SECONDS, None):
                entry = await self._attempt(client, self.url, event, message_id)
                if delay is None or (entry.status is not None and 200 <= entry.status < 300):
                    break
                await asyncio.sleep(delay)
        return entry

    async def _attempt(self, client: httpx.AsyncClient, url: str, event: ClerkEvent, message_id: str) -> Entry:
        entry = self._ledger.start(
            "clerk", "webhook", account=event["data"].get("id"), note=f"{event['type']} {message_id}"
        )
        body = encode_event(event)
        headers = signature_headers(body, message_id=message_id, timestamp=int(time.time()), secrets=[self.secret])
        status: int | None = None
        try:
            status = (
                await client.post(url, content=body, headers=headers | {"content-type": "application/json"})
            ).status_code
        except httpx.HTTPError as failure:
            entry.error = type(failure).__name__
        self._ledger.finish(entry, status=status)
        return entry
