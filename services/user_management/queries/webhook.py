"""The inbox: each message once."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import WebhookEvent

_events = WebhookEvent.ormar_config.table


async def insert_event(connection: AsyncConnection, values: dict[str, Any]) -> bool:
    """Store an event; False when the message id is known. A second delivery waits here for the first to commit."""
    insert = postgresql.insert(_events).values(values).on_conflict_do_nothing().returning(_events.c.id)
    return (await connection.execute(insert)).one_or_none() is not None


async def mark_applied(connection: AsyncConnection, event_id: UUID) -> None:
    """The effect is in this transaction."""
    await connection.execute(sa.update(_events).where(_events.c.id == event_id).values(applied_at=sa.func.now()))
