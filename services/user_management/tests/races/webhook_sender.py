"""A sender of webhooks that records every attempt, and a comparison of its messages with the rows in the database, user
by user."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from services.sandbox.clerk.webhooks import encode_event, signature_headers
from services.user_management.tests.clerk_history import START, Event, deleted, described, event, signed_in, updated

Database = asyncpg.Connection
LIFE = ("user.created", "user.updated", "session.created", "user.deleted")
"""The events about every user, in this order."""

ROWS = """
SELECT e.event_type, e.message_id, e.applied_at IS NOT NULL AS is_applied, e.attempts, e.error
FROM webhook_events e WHERE e.subject = $1 ORDER BY e.id
"""
EFFECTS = """
SELECT action FROM audit_logs WHERE user_id = $1
UNION ALL SELECT 'told ' || event_type FROM outbox_events WHERE subject = $1
UNION ALL SELECT 'sign_in ' || session_id FROM sign_ins WHERE user_id = $1
UNION ALL SELECT 'identity' FROM user_identities WHERE user_id = $1
UNION ALL SELECT 'preferences' FROM user_preferences WHERE user_id = $1
"""
STATE = "SELECT first_name, email, status, last_login_at, deleted_by FROM users WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver a message, as the sender saw it. Without an answer, `error` names the exception, and
    `status`, `duplicate` and `applied` are None."""

    pid: int | None
    status: int | None
    duplicate: bool | None
    applied: bool | None
    error: str | None
    seconds: float


@dataclass(slots=True)
class Message:
    """One event and every attempt to deliver it."""

    id: str
    subject: str
    event: Event
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def event_type(self) -> str:
        kind: str = self.event["type"]
        return kind

    @property
    def is_acknowledged(self) -> bool:
        return any(attempt.status is not None for attempt in self.attempts)


class Sender:
    """Signs and sends as Svix does: all attempts for a message have the same id, each has a fresh timestamp and
    signature."""

    def __init__(self, client: httpx.AsyncClient, secret: str, ledger: Path) -> None:
        self._client = client
        self._secret = secret
        self._ledger = ledger
        self.messages: list[Message] = []

    def message(self, told: Event, subject: str) -> Message:
        """Make a new message, which is not sent yet."""
        message = Message(f"msg_{subject.partition('_')[2]}_{len(self.messages)}", subject, told)
        self.messages.append(message)
        return message

    async def deliver(self, url: str, message: Message, *, pid: int | None = None) -> Attempt:
        """Make one attempt and write it to the ledger. Raises AssertionError for an answer other than 200."""
        body = encode_event(message.event)
        headers = signature_headers(body, message_id=message.id, timestamp=int(time.time()), secrets=[self._secret])
        began = time.monotonic()
        status = duplicate = applied = error = None
        try:
            response = await self._client.post(
                f"{url}/webhooks/clerk", content=body, headers={**headers, "content-type": "application/json"}
            )
        except httpx.TransportError as broken:
            error = type(broken).__name__
        else:
            assert response.status_code == 200, response.text
            status, answer = response.status_code, response.json()
            duplicate, applied = bool(answer["duplicate"]), bool(answer["applied"])
        attempt = Attempt(pid, status, duplicate, applied, error, time.monotonic() - began)
        message.attempts.append(attempt)
        with self._ledger.open("a") as ledger:
            ledger.write(json.dumps({"message": message.id, "type": message.event_type, **asdict(attempt)}) + "\n")
        return attempt


def lives(sender: Sender, run: str) -> Iterator[Message]:
    """Yield messages without end: the events of LIFE about one user, then those about the next."""
    number = 0
    while True:
        user_id = f"user_{run}x{number}"
        for told in life(user_id):
            yield sender.message(told, user_id)
        number += 1


def life(user_id: str) -> list[Event]:
    """Return the events about one user, in the order of LIFE."""
    address = f"{user_id.lower()}@example.com"
    return [
        event("user.created", described(user_id, at=1, first_name="Ada", email=address), at=1),
        updated(user_id, at=2, first_name="Augusta", email=address),
        signed_in(user_id, at=3, session_id=session_of(user_id)),
        deleted(user_id, at=4),
    ]


def session_of(user_id: str) -> str:
    """Return the id of the user's only session."""
    return f"sess_{user_id.partition('_')[2]}"


def expected_effects(user_id: str, told: list[str]) -> Counter[str]:
    """Return the rows that EFFECTS must select after events of the types `told`, which are the first types of LIFE."""
    effects = Counter({"identity": 1, "preferences": 1})
    for event_type in told:
        if event_type == "session.created":
            effects[f"sign_in {session_of(user_id)}"] += 1
        else:
            effects.update([event_type, f"told {event_type}"])
    return effects


def expected_state(user_id: str, told: list[str]) -> dict[str, Any]:
    """Return the row that STATE must select after events of the types `told`, which are the first types of LIFE."""
    signed_in_at = datetime.fromtimestamp((START + 3) / 1000, UTC) if "session.created" in told else None
    is_deleted = "user.deleted" in told
    return {
        "first_name": "Augusta" if "user.updated" in told else "Ada",
        "email": f"{user_id.lower()}@example.com",
        "status": "deactivated" if is_deleted else "active",
        "last_login_at": signed_in_at,
        "deleted_by": "upstream" if is_deleted else None,
    }


async def differences(database: "Database[asyncpg.Record]", messages: list[Message]) -> list[str]:
    """Compare each user's rows with the effects that the acknowledged messages must have had, each once. Return one
    description per difference."""
    by_user: dict[str, list[Message]] = {}
    for message in messages:
        if message.is_acknowledged:
            by_user.setdefault(message.subject, []).append(message)
    wrong = []
    for user_id, told in by_user.items():
        types = [message.event_type for message in told]
        inbox = {(row["event_type"], row["message_id"]): row for row in await database.fetch(ROWS, user_id)}
        if sorted(inbox) != sorted((message.event_type, message.id) for message in told):
            wrong.append(f"{user_id}: inbox {sorted(inbox)}")
        wrong += [
            f"{user_id}: {dict(row)}" for row in inbox.values() if (row["is_applied"], row["error"]) != (True, None)
        ]
        effects = Counter(row["action"] for row in await database.fetch(EFFECTS, user_id))
        if effects != expected_effects(user_id, types):
            wrong.append(f"{user_id}: effects {dict(effects)} of {types}")
        state = await database.fetchrow(STATE, user_id)
        if state is None or dict(state) != expected_state(user_id, types):
            wrong.append(f"{user_id}: state {state} after {types}")
    return wrong
