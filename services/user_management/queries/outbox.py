"""Unpublished events, in order."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import OutboxEvent

_events = OutboxEvent.ormar_config.table


async def unpublished(connection: AsyncConnection, *, limit: int) -> Sequence[sa.RowMapping]:
    """The oldest events that nobody was told of. By `published_at`, never by position: a transaction that commits
    late has a lower `seq` than ones already relayed."""
    select = sa.select(_events).where(_events.c.published_at.is_(None)).order_by(_events.c.seq).limit(limit)
    return (await connection.execute(select)).mappings().all()


async def mark_published(connection: AsyncConnection, sequence_numbers: list[Any]) -> None:
    """They are in the stream."""
    update = sa.update(_events).where(_events.c.seq.in_(sequence_numbers)).values(published_at=sa.func.now())
    await connection.execute(update)
