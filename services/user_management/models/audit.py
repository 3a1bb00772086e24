"""The tables of the audit: who did what to whom. The service never updates a row, and deletes rows only from
`audit_details`, when a user is erased. Both tables are partitioned by month, by the time that the id (a UUID of version
7) begins with."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar

from services.user_management.models.base import JSONB, Identifier, PgUUID, index, table


class AuditLog(ormar.Model):
    """The record of one change. The table has no foreign keys, because a record outlives the rows that it is about."""

    ormar_config = table(
        "audit_logs",
        index("ix_audit_logs_user_id_id", "user_id", "id"),
        index("ix_audit_logs_action_id", "action", "id"),
    )

    id: UUID = PgUUID(primary_key=True)
    occurred_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    action: str = ormar.Text(nullable=False)
    actor_kind: str = ormar.Text(nullable=False)
    actor_id: str = ormar.Text(nullable=False)
    impersonator: str | None = ormar.Text(nullable=True)
    user_id: str | None = Identifier(nullable=True)
    target_type: str = ormar.Text(nullable=False)
    target_id: str = ormar.Text(nullable=False)
    ip_address: str | None = ormar.Text(nullable=True)
    request_id: str = ormar.Text(nullable=False)
    trace_id: str | None = ormar.Text(nullable=True)


class AuditDetail(ormar.Model):
    """The old and new values of one change, under the id of its row in `audit_logs`. They may hold personal data, so
    the values about a user are deleted when the user is erased."""

    ormar_config = table(
        "audit_details",
        index("ix_audit_details_user_id", "user_id"),
    )

    id: UUID = PgUUID(primary_key=True)
    user_id: str | None = Identifier(nullable=True)
    changes: Any = JSONB(nullable=False)
