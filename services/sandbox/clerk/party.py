"""The imitation of Clerk as one object. Tests use it directly, and the sandbox's routes call it."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import httpx

from services.sandbox.clerk.session_tokens import build_session_token
from services.sandbox.clerk.sessions import ClerkSession, new_session
from services.sandbox.clerk.users import ClerkUser, change_user, clerk_id, milliseconds, new_user, primary_email
from services.sandbox.clerk.webhooks import (
    ClerkEvent,
    WebhookSender,
    encode_event,
    new_webhook_secret,
    signature_headers,
)
from services.sandbox.ledger import Ledger
from services.sandbox.signing import SigningKey, signing_key

ClerkObject = ClerkUser | ClerkSession
"""The objects that an event can be about."""

INSTANCE_ID = "ins_2sandboxSANDBOXsandbox00000"


class Clerk:
    """An instance of Clerk with its keys, users and webhooks.

    Returned users are copies, except those of `stored_users`. Change users only through this class's methods, such as
    `update_user`; these raise `KeyError` for an unknown user, and send no webhook.
    """

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
        """Return the key that signs session tokens at present."""
        return self._key(self._key_generation)

    @property
    def public_key_pem(self) -> str:
        """Return the public half of the present signing key as PEM."""
        return self.signing_key.public_key_pem

    @property
    def jwks_url(self) -> str:
        """Return the URL of the published keys."""
        return f"{self.issuer}/.well-known/jwks.json"

    def jwks(self) -> dict[str, Any]:
        """Return the published keys (RFC 7517 section 5)."""
        return {"keys": [key.jwk for key in self._published_keys]}

    def rotate_key(self, *, keep_old: bool = True) -> SigningKey:
        """Sign with a new key from now on, and return it; the old keys stay published only with `keep_old`."""
        self._key_generation += 1
        self._published_keys = [self.signing_key, *(self._published_keys if keep_old else [])]
        return self.signing_key

    def session_token(self, user_id: str, **overrides: Any) -> str:
        """Return a session token; the user need not exist. For `overrides`, and for the `ValueError` and `TypeError`
        that bad ones raise, see `build_session_token`."""
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
        """Create a user, and return it. `fields` are the changes of `update_user`; without `email` the user has no
        e-mail address, and without `user_id` a new id. A user who has that id already is replaced.

        Raises `KeyError` for an unknown field.
        """
        now = milliseconds()
        user = new_user(user_id or clerk_id("user"), now=now)
        names = {"first_name": first_name, "last_name": last_name}
        change_user(user, {"email": email, **names, **fields}, now=now)
        self._users[user["id"]] = user
        return copy.deepcopy(user)

    def update_user(self, user_id: str, **changes: Any) -> ClerkUser:
        """Change a user, and return it. `changes` are keys of the user object, or `email`, `email_verified`, `phone`,
        `image_url`.

        `updated_at`, unless it is among the changes, grows by at least a millisecond, so that two changes are never
        simultaneous. Raises `KeyError` for an unknown user or key.
        """
        user = self._users[user_id]
        now = max(milliseconds(), user["updated_at"] + 1)
        change_user(user, {"updated_at": now} | changes, now=now)
        return copy.deepcopy(user)

    def ban_user(self, user_id: str) -> ClerkUser:
        """Ban a user."""
        return self.update_user(user_id, banned=True)

    def unban_user(self, user_id: str) -> ClerkUser:
        """Lift a ban."""
        return self.update_user(user_id, banned=False)

    def lock_user(self, user_id: str) -> ClerkUser:
        """Lock a user out, as after too many wrong passwords. The user object announces an hour, but the lockout lasts
        until `unlock_user`."""
        return self.update_user(user_id, locked=True, lockout_expires_in_seconds=3600)

    def unlock_user(self, user_id: str) -> ClerkUser:
        """End a lockout."""
        return self.update_user(user_id, locked=False, lockout_expires_in_seconds=None)

    def swap_emails(self, first_id: str, second_id: str) -> tuple[ClerkUser, ClerkUser]:
        """Swap the primary e-mail addresses of two users, and return both users; the first one changes first. Each
        address becomes its new user's only one, and is verified."""
        first, second = primary_email(self._users[first_id]), primary_email(self._users[second_id])
        return self.update_user(first_id, email=second), self.update_user(second_id, email=first)

    def delete_user(self, user_id: str) -> ClerkUser:
        """Delete a user, and return the `data` of the event `user.deleted`."""
        user = self._users.pop(user_id)
        external = {"external_id": user["external_id"]} if user["external_id"] else {}
        return {"id": user_id, "object": "user", "deleted": True, **external}

    def user(self, user_id: str) -> ClerkUser | None:
        """Return one user, or `None` if there is none with this id."""
        user = self._users.get(user_id)
        return copy.deepcopy(user) if user else None

    def users(self) -> list[ClerkUser]:
        """Return all users in the order of their creation here, whatever their `created_at`."""
        return copy.deepcopy(self.stored_users())

    def stored_users(self) -> list[ClerkUser]:
        """Return all users in the order of their creation here, not as copies, so do not change them: copying 20,000
        users for each page of a list takes seconds."""
        return list(self._users.values())

    def session_event(
        self,
        event_type: str,
        user_id: str,
        *,
        session_id: str | None = None,
        created_at: int | None = None,
        with_user: bool = False,
    ) -> ClerkSession:
        """Return the `data` of a `session.…` event. The session has the id that is in the user's session tokens unless
        `session_id` names another, and began at `created_at` (milliseconds), now by default. The user need not exist;
        the session's `user` is the user object if `with_user` is set and the user exists, otherwise `None`. Raises
        `KeyError` for a type of event that is not about sessions."""
        now = milliseconds()
        began = now if created_at is None else created_at
        user = self.user(user_id) if with_user else None
        return new_session(
            event_type, user_id, session_id=session_id, created_at=began, updated_at=max(began, now), user=user
        )

    def event(
        self, event_type: str, subject: ClerkObject, *, timestamp: int | None = None, instance_id: str | None = None
    ) -> ClerkEvent:
        """Return the envelope of a webhook about a user or a session. `timestamp` is sent as given; by default it is
        the present time in milliseconds. Clerk documents milliseconds, but its own examples are in seconds."""
        return {
            "object": "event",
            "type": event_type,
            "timestamp": milliseconds() if timestamp is None else timestamp,
            "instance_id": instance_id or self.instance_id,
            "event_attributes": {"http_request": {"client_ip": "203.0.113.5", "user_agent": "Sandbox/1.0"}},
            "data": subject,
        }

    def sign(
        self,
        body: bytes,
        *,
        message_id: str | None = None,
        timestamp: int | None = None,
        secrets: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Return the `svix-*` headers for a body. `timestamp` is in seconds, now by default. There is one signature
        for each of `secrets`, by default only the instance's own secret. Raises `ValueError` for a malformed
        secret."""
        return signature_headers(
            body,
            message_id=message_id or clerk_id("msg"),
            timestamp=int(time.time()) if timestamp is None else timestamp,
            secrets=secrets or [self.webhook_secret],
        )

    def signed_event(
        self,
        event_type: str,
        subject: ClerkObject,
        *,
        message_id: str | None = None,
        timestamp: int | None = None,
        event_timestamp: int | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """Return the headers (content type included) and the body of a webhook with a valid signature. `timestamp`
        (seconds) goes into the headers, `event_timestamp` (milliseconds) into the envelope; both are now by default."""
        body = encode_event(self.event(event_type, subject, timestamp=event_timestamp))
        headers = self.sign(body, message_id=message_id, timestamp=timestamp)
        return headers | {"content-type": "application/json"}, body

    async def send_event(self, event_type: str, subject: ClerkObject, *, timestamp: int | None = None) -> bool | None:
        """Post an event to the service, in at most four attempts. Return whether the service accepted it (2xx), or
        `None` if no webhook URL is configured. `timestamp` is the envelope's, as in `event`.
        """
        event = self.event(event_type, subject, timestamp=timestamp)
        entry = await self.webhooks.deliver(event, message_id=clerk_id("msg"))
        return None if entry is None else entry.status is not None and 200 <= entry.status < 300
