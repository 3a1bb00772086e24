"""Statements on the inbox: events received from upstream, the identity provider. Each message is stored once; one that
could not be applied is kept until it is."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor
from services.user_management.core.json_types import JSONObject
from services.user_management.models import WebhookEvent
from services.user_management.queries.pruning import delete_batch
from services.user_management.queries.rows import all_rows, columns_of, one_row

_events = WebhookEvent.ormar_config.table
_FORGOTTEN: Final[JSONObject] = {}


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event that was received, without its payload."""

    id: UUID
    source: str
    message_id: str
    event_type: str
    subject: str | None
    received_at: datetime
    applied_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class StoredEvent(ListedEvent):
    """An event that was received, with its payload."""

    payload: JSONObject


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be stored, which is then applied for the first time in the same transaction."""

    id: UUID
    source: str
    message_id: str
    event_type: str
    subject: str | None
    payload: JSONObject
    received_at: datetime


async def insert_event(connection: AsyncConnection, event: NewEvent) -> bool:
    """Store an event with its first attempt counted; False when the message is stored already. While another
    transaction stores the same message, this waits until that one has ended."""
    insert = (
        postgresql.insert(_events)
        .values(**columns_of(event), attempts=1)
        .on_conflict_do_nothing()
        .returning(_events.c.id)
    )
    return (await connection.execute(insert)).one_or_none() is not None


async def is_applied(connection: AsyncConnection, *, source: str, message_id: str) -> bool:
    """Tell whether a message is stored and has been applied."""
    select = sa.select(_events.c.applied_at.is_not(None)).where(
        _events.c.source == source, _events.c.message_id == message_id
    )
    return bool((await connection.execute(select)).scalar_one_or_none())


async def mark_applied(connection: AsyncConnection, event_id: UUID) -> None:
    """Mark an event as applied, in the transaction of its effect."""
    values = {"applied_at": sa.func.now(), "next_attempt_at": None, "error": None}
    await connection.execute(sa.update(_events).where(_events.c.id == event_id).values(**values))


async def mark_failed(connection: AsyncConnection, event_id: UUID, *, error: str, retry_in: timedelta | None) -> None:
    """Record the error of an event that could not be applied. It is due again after `retry_in`; None: it is tried again
    only when an operator asks."""
    due = None if retry_in is None else sa.func.now() + retry_in
    update = sa.update(_events).where(_events.c.id == event_id).values(error=error, next_attempt_at=due)
    await connection.execute(update)


async def forget_payload(connection: AsyncConnection, event_id: UUID) -> None:
    """Delete an event's payload, but keep its row, so that its message id stays known."""
    await connection.execute(sa.update(_events).where(_events.c.id == event_id).values(payload=_FORGOTTEN))


async def forget_payloads(connection: AsyncConnection, subject: str) -> None:
    """Delete the payloads of all events about `subject` and mark the events as applied, so that none is tried again.
    Their rows are kept, so that their message ids stay known."""
    values = {
        "payload": _FORGOTTEN,
        "applied_at": sa.func.coalesce(_events.c.applied_at, sa.func.now()),
        "next_attempt_at": None,
    }
    await connection.execute(sa.update(_events).where(_events.c.subject == subject).values(**values))


async def lock_due_event(connection: AsyncConnection) -> StoredEvent | None:
    """Lock and read the event that has been due longest; None if none is due. Events that another transaction has
    locked are passed over."""
    select = (
        sa.select(_events)
        .where(_events.c.applied_at.is_(None), _events.c.next_attempt_at <= sa.func.now())
        .order_by(_events.c.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return one_row(StoredEvent, await connection.execute(select))


async def lock_event(connection: AsyncConnection, event_id: UUID) -> StoredEvent | None:
    """Lock and read one event; None if there is none of this id."""
    select = sa.select(_events).where(_events.c.id == event_id).with_for_update()
    return one_row(StoredEvent, await connection.execute(select))


async def count_attempt(connection: AsyncConnection, event_id: UUID) -> None:
    """Count one more attempt to apply an event."""
    update = sa.update(_events).where(_events.c.id == event_id).values(attempts=_events.c.attempts + 1)
    await connection.execute(update)


async def list_events(
    connection: AsyncConnection, *, failed_only: bool, subject: str | None, limit: int
) -> list[ListedEvent]:
    """List the `limit` newest events, the newest first, without their payloads. `failed_only`: those that are not
    applied; `subject`: those about one subject of upstream's."""
    columns = (_events.c[field.name] for field in fields(ListedEvent))
    select = sa.select(*columns).order_by(_events.c.id.desc()).limit(limit)
    if failed_only:
        select = select.where(_events.c.applied_at.is_(None))
    if subject is not None:
        select = select.where(_events.c.subject == subject)
    return all_rows(ListedEvent, await connection.execute(select))


async def failed_events(connection: AsyncConnection) -> Sequence[UUID]:
    """List the ids of all events that are not applied yet, the oldest first."""
    select = sa.select(_events.c.id).where(_events.c.applied_at.is_(None)).order_by(_events.c.id)
    return (await connection.execute(select)).scalars().all()


async def read_event(connection: AsyncConnection, event_id: UUID) -> StoredEvent | None:
    """Read one event with its payload; None if there is none of this id."""
    return one_row(StoredEvent, await connection.execute(sa.select(_events).where(_events.c.id == event_id)))


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` applied events that were received before `before`, and return how many; ids are ordered by
    time."""
    is_old = _events.c.id < uuid7_floor(before)
    return await delete_batch(connection, _events, is_old & _events.c.applied_at.is_not(None), limit=limit)
