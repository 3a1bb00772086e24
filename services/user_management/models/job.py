"""The table of the runs of periodic jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.models.base import JSONB, Identifier, PgUUID, index, table


class JobRun(ormar.Model):
    """One slot (one due run) of one job. A worker claims it with a lease, so that no two work on it at the same time,
    however many schedulers and workers there are."""

    ormar_config = table(
        "job_runs",
        sa.UniqueConstraint("job", "slot"),
        index("ix_job_runs_started_at", "started_at"),
    )

    id: UUID = PgUUID(primary_key=True)
    job: str = Identifier(nullable=False)
    slot: datetime = ormar.DateTime(timezone=True, nullable=False)
    owner: UUID = PgUUID(nullable=False)
    lease_until: datetime = ormar.DateTime(timezone=True, nullable=False)
    attempts: int = ormar.Integer(nullable=False)
    cursor: Any = JSONB(nullable=True)
    started_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    finished_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    error: str | None = ormar.Text(nullable=True)
