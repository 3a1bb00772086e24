"""Events to tell others, in order."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor
from services.user_management.models import OutboxEvent

_events = OutboxEvent.ormar_config.table

# Locked in order, so that two relays wait for each other instead of for ever.
_MARK_PUBLISHED: Final = sa.text("""
UPDATE outbox_events SET published_at = now()
WHERE seq = ANY(ARRAY(
    SELECT seq FROM outbox_events WHERE seq = ANY(:seqs) AND published_at IS NULL ORDER BY seq FOR UPDATE
))
RETURNING seq
""").bindparams(sa.bindparam("seqs", type_=sa.ARRAY(sa.BigInteger())))


async def unpublished(connection: AsyncConnection, *, limit: int) -> Sequence[sa.RowMapping]:
    """The oldest events that nobody was told of. By `published_at`, never by position: a transaction that commits
    late has a lower `seq` than ones already relayed."""
    select = sa.select(_events).where(_events.c.published_at.is_(None)).order_by(_events.c.seq).limit(limit)
    return (await connection.execute(select)).mappings().all()


async def mark_published(connection: AsyncConnection, sequence_numbers: list[int]) -> set[int]:
    """They are told; the numbers of those that nobody else has marked before. Waits for a relay that is about to."""
    rows = await connection.execute(_MARK_PUBLISHED, {"seqs": sequence_numbers})
    return set(rows.scalars())


async def prune(connection: AsyncConnection, *, before: datetime) -> None:
    """Forget published events that are older; ids are ordered by time."""
    is_old = _events.c.id < uuid7_floor(before)
    await connection.execute(sa.delete(_events).where(is_old, _events.c.published_at.is_not(None)))
