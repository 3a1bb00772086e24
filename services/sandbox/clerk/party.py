"""Clerk as one object: what a test holds, and what the routes call."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import httpx

from services.sandbox.clerk.session_tokens import build_session_token
from services.sandbox.clerk.users import ClerkUser, change_user, clerk_id, milliseconds, new_user
from services.sandbox.clerk.webhooks import (
    ClerkEvent,
    WebhookSender,
    encode_event,
    new_webhook_secret,
    signature_headers,
)
from services.sandbox.ledger import Ledger
from services.sandbox.signing import SigningKey, signing_key

INSTANCE_ID = "ins_2sandboxSANDBOXsandbox00000"


class Clerk:
    """An instance of Clerk: keys, users, webhooks. Returned users are copies; change them through the methods."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        base_url: str,
        frontend_origin: str,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        webhook_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.issuer = f"{base_url}/clerk"
        self.instance_id = INSTANCE_ID
        self.frontend_origin = frontend_origin
        self.webhook_secret = webhook_secret or new_webhook_secret()
        self.webhooks = WebhookSender(ledger, url=webhook_url, secret=self.webhook_secret, transport=webhook_transport)
        self._users: dict[str, ClerkUser] = {}
        self._key_generation = 1
        self._published_keys = [self._key(1)]

    @staticmethod
    def _key(generation: int) -> SigningKey:
        return signing_key("clerk", generation, kid_prefix="ins_")

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs now."""
        return self._key(self._key_generation)

    @property
    def public_key_pem(self) -> str:
        """The public half of the key that signs now, PEM."""
        return self.signing_key.public_key_pem

    @property
    def jwks_url(self) -> str:
        """Where the published keys are."""
        return f"{self.issuer}/.well-known/jwks.json"

    def jwks(self) -> dict[str, Any]:
        """The published keys (RFC 7517 section 5)."""
        return {"keys": [key.jwk for key in self._published_keys]}

    def rotate_key(self, *, keep_old: bool = True) -> SigningKey:
        """Sign with a new key from now on; the old ones stay published or are dropped."""
        self._key_generation += 1
        self._published_keys = [self.signing_key, *(self._published_keys if keep_old else [])]
        return self.signing_key

    def session_token(self, user_id: str, **overrides: Any) -> str:
        """A session token; overrides as in `build_session_token`. The user need not exist (a token may outlive him)."""
        return build_session_token(
            user_id,
            signing_key=self.signing_key,
            issuer=self.issuer,
            authorized_party=self.frontend_origin,
            overrides=overrides,
        )

    def create_user(
        self,
        *,
        email: str | None = None,
        first_name: str | None = None,
        last_name: str | None = None,
        user_id: str | None = None,
        **fields: Any,
    ) -> ClerkUser:
        """A new user. `fields` as in `update_user`; no e-mail makes one of the users that have none."""
        now = milliseconds()
        user = new_user(user_id or clerk_id("user"), now=now)
        names = {"first_name": first_name, "last_name": last_name}
        change_user(user, {"email": email, **names, **fields}, now=now)
        self._users[user["id"]] = user
        return copy.deepcopy(user)

    def update_user(self, user_id: str, **changes: Any) -> ClerkUser:
        """Change a user: keys of the user object, or `email`, `email_verified`, `phone`, `image_url`.

        `updated_at` moves by a millisecond at least, so that two changes are never simultaneous.
        Raises `KeyError` for an unknown user or key.
        """
        user = self._users[user_id]
        now = max(milliseconds(), user["updated_at"] + 1)
        change_user(user, {"updated_at": now} | changes, now=now)
        return copy.deepcopy(user)

    def ban_user(self, user_id: str) -> ClerkUser:
        """Ban a user. Raises `KeyError` for an unknown one."""
        return self.update_user(user_id, banned=True)

    def delete_user(self, user_id: str) -> ClerkUser:
        """Delete a user; returns the `data` of `user.deleted`. Raises `KeyError` for an unknown one."""
        user = self._users.pop(user_id)
        return {"id": user_id, "object": "user", "deleted": True, "external_id": user["external_id"]}

    def user(self, user_id: str) -> ClerkUser | None:
        """One user, or `None`."""
        user = self._users.get(user_id)
        return copy.deepcopy(user) if user else None

    def users(self) -> list[ClerkUser]:
        """All users, oldest first."""
        return [copy.deepcopy(user) for user in self._users.values()]

    def event(
        self, event_type: str, user: ClerkUser, *, timestamp: int | None = None, instance_id: str | None = None
    ) -> ClerkEvent:
        """The envelope of a webhook; `timestamp` in milliseconds."""
        return {
            "object": "event",
            "type": event_type,
            "timestamp": milliseconds() if timestamp is None else timestamp,
            "instance_id": instance_id or self.instance_id,
            "event_attributes": {"http_request": {"client_ip": "203.0.113.5", "user_agent": "Sandbox/1.0"}},
            "data": user,
        }

    def sign(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        timestamp: int | None = None,
        secrets: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """The `svix-*` headers for a body; `timestamp` in seconds, now by default."""
        return signature_headers(
            body,
            message_id=message_id or clerk_id("msg"),
            timestamp=int(time.time()) if timestamp is None else timestamp,
            secrets=secrets or [self.webhook_secret],
        )

    def signed_event(
        self, event_type: str, user: ClerkUser, *, message_id: str | None = None, timestamp: int | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Headers (content type included) and body of a webhook that verifies; `timestamp` (s) is the header's."""
        body = encode_event(self.event(event_type, user))
        headers = self.sign(body, message_id=message_id, timestamp=timestamp)
        return headers | {"content-type": "application/json"}, body

    async def send_event(self, event_type: str, user: ClerkUser) -> bool | None:
        """Post an event to the service. True if it was accepted, `None` where no webhook URL is configured."""
        entry = await self.webhooks.deliver(self.event(event_type, user), message_id=clerk_id("msg"))
        return None if entry is None else entry.status is not None and 200 <= entry.status < 300
