"""Builders of Clerk's events, their delivery to the service in process, and reads of the rows that result."""

import json
import time
from typing import Any, Final

import asyncpg

from services.sandbox.clerk.sessions import new_session
from services.sandbox.clerk.users import change_user, clerk_id, new_user
from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.schemas.webhook import ClerkEvent, WebhookAccepted

Owner = asyncpg.Connection
Event = dict[str, Any]
State = dict[str, Any]

START: Final = (int(time.time()) - 86_400) * 1000
"""Start of every history: a day ago, in Unix milliseconds, so that all events lie before the time at which a
reconciliation reads the users from Clerk."""
IMAGE: Final = "https://img.example/portrait"
NOT_STATE: Final = {"created_at", "updated_at", "version", "deleted_at", "last_active_at"}
"""Columns of `users` that `states` leaves out: their values depend on the order in which events were applied, and not
on the last state alone."""


def described(user_id: str, *, at: int, **fields: Any) -> dict[str, Any]:
    """Return Clerk's user object as last updated `at` milliseconds after START. `fields` are changes as `change_user`
    takes them."""
    user = new_user(user_id, now=START)
    change_user(user, {"image_url": IMAGE, "updated_at": START + at, **fields}, now=START)
    return user


def event(event_type: str, subject: dict[str, Any], *, at: int = 0) -> Event:
    """Build an event with the timestamp `at` milliseconds after START."""
    return {"object": "event", "type": event_type, "timestamp": START + at, "data": subject}


def updated(user_id: str, *, at: int, **fields: Any) -> Event:
    """Build an event of the type `user.updated` with the timestamp `at` milliseconds after START; `fields` as in
    `described`."""
    return event("user.updated", described(user_id, at=at, **fields), at=at)


def deleted(user_id: str, *, at: int) -> Event:
    """Build an event of the type `user.deleted` with the timestamp `at` milliseconds after START."""
    return event("user.deleted", {"id": user_id, "object": "user", "deleted": True}, at=at)


def signed_in(user_id: str, *, at: int, session_id: str | None = None) -> Event:
    """Build an event of the type `session.created`, for a session (a new one by default) that began `at` milliseconds
    after START."""
    began = START + at
    kind = "session.created"
    named = session_id or clerk_id("sess")
    session = new_session(kind, user_id, session_id=named, created_at=began, updated_at=began, user=None)
    return event(kind, session, at=at)


async def deliver(container: Container, told: Event, message_id: str | None = None) -> WebhookAccepted:
    """Hand an event to the inbox, which stores and applies it, as if its signature had been verified. `message_id`
    defaults to a new one."""
    with use_context(RequestContext(request_id="test")):
        return await container.clerk.webhooks.receive_clerk_event(
            message_id or clerk_id("msg"), ClerkEvent.model_validate(told), told
        )


async def states(owner: "Owner[asyncpg.Record]") -> dict[str, State]:
    """Return, by user id, the row of each user without the columns of NOT_STATE, with the user's identities, sign-ins
    and preferences."""
    found: dict[str, State] = {}
    for row in await owner.fetch("SELECT * FROM users"):
        kept = {name: value for name, value in row.items() if name not in NOT_STATE}
        kept |= {"is_deleted": row["deleted_at"] is not None, "identities": [], "sign_ins": [], "preferences": []}
        kept |= {name: json.loads(kept[name] or "null") for name in ("local_fields", "upstream_profile")}
        found[row["id"]] = kept
    for row in await owner.fetch("SELECT user_id, issuer, subject FROM user_identities ORDER BY issuer, subject"):
        found[row["user_id"]]["identities"].append((row["issuer"], row["subject"]))
    for row in await owner.fetch("SELECT * FROM sign_ins ORDER BY issuer, session_id"):
        found[row["user_id"]]["sign_ins"].append((row["issuer"], row["session_id"], row["started_at"]))
    for row in await owner.fetch("SELECT user_id, overrides, schema_version, version FROM user_preferences"):
        found[row["user_id"]]["preferences"].append(tuple(row)[1:])
    return found


async def state_of(owner: "Owner[asyncpg.Record]", user_id: str) -> State:
    """Return the state of one user. Raises KeyError if there is no such user."""
    return (await states(owner))[user_id]


async def count(owner: "Owner[asyncpg.Record]", table: str) -> int:
    """Count the rows of a table."""
    rows: int = await owner.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own table names
    return rows


async def changes_of(owner: "Owner[asyncpg.Record]", user_id: str, action: str) -> list[dict[str, list[Any]]]:
    """Return the `changes` of each audit row about `action` on one user, the oldest first."""
    rows = await owner.fetch(
        "SELECT d.changes FROM audit_logs l JOIN audit_details d ON d.id = l.id"
        " WHERE l.user_id = $1 AND l.action = $2 ORDER BY l.id",
        user_id,
        action,
    )
    return [json.loads(row["changes"]) for row in rows]


async def published(owner: "Owner[asyncpg.Record]", user_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the type and the payload of each event about one user in the outbox, relayed or not, in the outbox's
    order."""
    rows = await owner.fetch("SELECT event_type, payload FROM outbox_events WHERE subject = $1 ORDER BY seq", user_id)
    return [(row["event_type"], json.loads(row["payload"])) for row in rows]
