"""The table of the inbox: webhooks received from upstream, the identity provider."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.models.base import JSONB, Identifier, PgUUID, index, table


class WebhookEvent(ormar.Model):
    """An event whose signature was verified. It is stored in the transaction that applies it. If applying it fails, it
    is stored with the error, and applied later."""

    ormar_config = table(
        "webhook_events",
        sa.UniqueConstraint("source", "message_id"),
        index("ix_webhook_events_subject", "subject", "id"),
        index("ix_webhook_events_pending", "next_attempt_at", where="applied_at IS NULL"),
    )

    id: UUID = PgUUID(primary_key=True)
    source: str = Identifier(nullable=False)
    message_id: str = Identifier(nullable=False)
    event_type: str = ormar.Text(nullable=False)
    subject: str | None = Identifier(nullable=True)
    """Upstream's id of the user whom the event is about; null if it is about none."""
    payload: Any = JSONB(nullable=False)
    """The event as it was signed, at most as large as a request's body may be (1 MiB); `{}` once it was erased with its
    user."""
    received_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    applied_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    attempts: int = ormar.Integer(nullable=False)
    next_attempt_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    error: str | None = ormar.Text(nullable=True)
