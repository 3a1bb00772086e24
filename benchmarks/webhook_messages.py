"""Makes the webhooks of a burst at random: new users, and changes, sessions and deletions of some of them."""

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.sandbox.clerk.sessions import new_session
from services.sandbox.clerk.users import ClerkUser, change_user, new_user
from services.sandbox.clerk.webhooks import encode_event

_MINUTE: Final = 60_000
_INSTANCE: Final = "ins_2benchmarkBENCHMARKbench000"


@dataclass(frozen=True, slots=True)
class Message:
    """One webhook: its body, and what it says, as the ledger notes it."""

    id: str
    type: str
    subject: str
    said: dict[str, Any]
    """What the message says of the user or the session; times in Unix milliseconds."""
    body: bytes

    def as_json(self) -> dict[str, Any]:
        """Return the message as a JSON object for the ledger, without the body."""
        return {name: value for name, value in asdict(self).items() if name != "body"}


@dataclass(frozen=True, slots=True)
class Mix:
    """The number of messages of each type; all messages are about the users of `user.created`, the commonest type."""

    created: int
    updated: int
    sessions: int
    deleted: int

    @classmethod
    def of(cls, messages: int) -> "Mix":
        """Split `messages`: a tenth of them, rounded down, are deletions, as many sessions, twice as many changes, and
        all others new users."""
        tenth = messages // 10
        return cls(messages - 4 * tenth, 2 * tenth, tenth, tenth)


def make_messages(count: int, lots: random.Random) -> list[Message]:
    """Make `count` messages, ordered by type; `lots` draws the users' ids and which users are changed, sign in or are
    deleted."""
    mix = Mix.of(count)
    now = time.time_ns() // 1_000_000
    users = [_new_user(number, lots, now - 5 * _MINUTE) for number in range(mix.created)]
    created = [_about_user("user.created", user) for user in users]
    changed = [_about_user("user.updated", _changed(user, now)) for user in lots.sample(users, mix.updated)]
    sessions = [_about_session(user, now) for user in lots.sample(users, mix.sessions)]
    deleted = [_about_deletion(user, now) for user in lots.sample(users, mix.deleted)]
    return [*created, *changed, *sessions, *deleted]


def _new_user(number: int, lots: random.Random, now: int) -> ClerkUser:
    user = new_user(f"user_{lots.randbytes(13).hex()}", now=now)
    names = {"first_name": f"First{number}", "last_name": f"Last{number}"}
    change_user(user, {"email": f"person{number}@example.com", **names}, now=now)
    return user


def _changed(user: ClerkUser, now: int) -> ClerkUser:
    changed = dict(user)
    change_user(changed, {"last_name": f"{user['last_name']} II", "updated_at": now - _MINUTE}, now=now)
    return changed


def _about_user(event_type: str, user: ClerkUser) -> Message:
    said = {
        "email": user["email_addresses"][0]["email_address"],
        "first_name": user["first_name"],
        "last_name": user["last_name"],
        "updated_at": user["updated_at"],
    }
    return _message(event_type, user["id"], said, about=user, timestamp=user["updated_at"])


def _about_session(user: ClerkUser, now: int) -> Message:
    session_id = f"sess_{user['id'][-26:]}"
    began = now - 2 * _MINUTE
    session = new_session(
        "session.created", user["id"], session_id=session_id, created_at=began, updated_at=began, user=None
    )
    said = {"session_id": session_id, "started_at": began}
    return _message("session.created", user["id"], said, about=session, timestamp=began)


def _about_deletion(user: ClerkUser, now: int) -> Message:
    deleted = {"id": user["id"], "object": "user", "deleted": True}
    return _message("user.deleted", user["id"], {}, about=deleted, timestamp=now)


def _message(event_type: str, subject: str, said: dict[str, Any], *, about: dict[str, Any], timestamp: int) -> Message:
    event = {
        "object": "event",
        "type": event_type,
        "timestamp": timestamp,
        "instance_id": _INSTANCE,
        "event_attributes": {"http_request": {"client_ip": "203.0.113.5", "user_agent": "Benchmark/1.0"}},
        "data": about,
    }
    message_id = f"msg_{event_type.replace('.', '_')}_{subject}"
    return Message(message_id, event_type, subject, said, encode_event(event))


def deliveries(messages: list[Message], lots: random.Random) -> Iterator[Message]:
    """Yield each message twice, all in random order."""
    order = [*messages, *messages]
    lots.shuffle(order)
    return iter(order)
