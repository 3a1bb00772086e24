"""Statements on the outbox: the events that are to be relayed to Redis and to webhook subscriptions, in order."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor
from services.user_management.core.json_types import JSONObject
from services.user_management.models import OutboxEvent
from services.user_management.queries.pruning import delete_batch
from services.user_management.queries.rows import all_rows

_events = OutboxEvent.ormar_config.table

# Rows are locked in the order of `seq`, so that two relays cannot deadlock.
_MARK_PUBLISHED: Final = sa.text("""
UPDATE outbox_events SET published_at = now()
WHERE seq = ANY(ARRAY(
    SELECT seq FROM outbox_events WHERE seq = ANY(:seqs) AND published_at IS NULL ORDER BY seq FOR UPDATE
))
RETURNING seq
""").bindparams(sa.bindparam("seqs", type_=sa.ARRAY(sa.BigInteger())))


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that is not relayed yet."""

    id: UUID
    seq: int
    event_type: str
    subject: str
    payload: JSONObject
    occurred_at: datetime


async def unpublished(connection: AsyncConnection, *, limit: int) -> list[WaitingEvent]:
    """Read the `limit` oldest events that are not relayed yet. They are found by `published_at` and not by a position:
    an event whose transaction commits late has a lower `seq` than events that were relayed already."""
    select = (
        sa.select(*(_events.c[field.name] for field in fields(WaitingEvent)))
        .where(_events.c.published_at.is_(None))
        .order_by(_events.c.seq)
        .limit(limit)
    )
    return all_rows(WaitingEvent, await connection.execute(select))


async def mark_published(connection: AsyncConnection, sequence_numbers: list[int]) -> set[int]:
    """Mark events as relayed (published); return the numbers of those that no other process had marked. Waits for a
    process that is just marking one of them."""
    rows = await connection.execute(_MARK_PUBLISHED, {"seqs": sequence_numbers})
    return set(rows.scalars())


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` relayed events that were made before `before`, and return how many; ids are ordered by
    time."""
    is_old = _events.c.id < uuid7_floor(before)
    return await delete_batch(connection, _events, is_old & _events.c.published_at.is_not(None), limit=limit)
