"""Events to tell others, in order."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

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


async def prune(connection: AsyncConnection, *, before: UUID) -> None:
    """Forget published events older than `before`; ids are ordered by time."""
    await connection.execute(sa.delete(_events).where(_events.c.id < before, _events.c.published_at.is_not(None)))
