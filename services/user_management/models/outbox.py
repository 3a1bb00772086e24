"""The table of the outbox: events that wait to be relayed to Redis and to webhook subscriptions, or already were."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.models.base import JSONB, Identifier, PgUUID, index, table


class OutboxEvent(ormar.Model):
    """One event, written in the transaction of the change that it reports. Waiting events are relayed in the order of
    `seq`, each at least once."""

    ormar_config = table(
        "outbox_events",
        sa.UniqueConstraint("id"),
        index("ix_outbox_events_unpublished", "seq", where="published_at IS NULL"),
    )

    seq: int = ormar.BigInteger(primary_key=True)
    id: UUID = PgUUID(nullable=False)
    event_type: str = ormar.Text(nullable=False)
    subject: str = Identifier(nullable=False)
    payload: Any = JSONB(nullable=False)
    occurred_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    published_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
