"""Statements that periodic jobs need: on their slots (a slot is one due run of a job), and on the partitions of the
append-only tables. All times are by the database's clock."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.models import JobRun
from services.user_management.queries.pruning import delete_batch

_runs = JobRun.ormar_config.table

LEASE_SECONDS: Final = 25
MAX_ATTEMPTS: Final = 3

_CLAIM = sa.text("""
INSERT INTO job_runs AS r (id, job, slot, owner, lease_until, attempts, started_at)
SELECT :id, :job, this.slot, :owner, now() + make_interval(secs => :lease_seconds), 1, now()
FROM (SELECT date_bin(make_interval(secs => :period_seconds), now(), 'epoch') AS slot) AS this
WHERE NOT EXISTS (
    SELECT FROM job_runs o
    WHERE o.job = :job AND o.slot < this.slot AND o.finished_at IS NULL AND o.lease_until > now()
)
ON CONFLICT (job, slot) DO UPDATE
SET owner = excluded.owner, lease_until = excluded.lease_until, attempts = r.attempts + 1
WHERE r.finished_at IS NULL AND r.lease_until < now() AND r.attempts < :max_attempts
RETURNING r.id, r.slot, r.cursor, r.attempts
""").columns(cursor=sa.JSON)

_FINISH = sa.text("""
UPDATE job_runs SET finished_at = now(), error = NULL WHERE id = :id AND owner = :owner
""")

_CONTINUE = sa.text("""
UPDATE job_runs SET lease_until = now(), attempts = 0, cursor = :cursor WHERE id = :id AND owner = :owner
""").bindparams(sa.bindparam("cursor", type_=sa.JSON(none_as_null=True)))

_FAIL = sa.text("""
UPDATE job_runs
SET lease_until = now(), error = :error, finished_at = CASE WHEN attempts >= :max_attempts THEN now() END
WHERE id = :id AND owner = :owner
""")


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of one job that this process has claimed. `slot` is when its period began, `cursor` where the work
    goes on (None: from the beginning)."""

    id: UUID
    owner: UUID
    slot: datetime
    attempts: int
    cursor: Any


async def claim(connection: AsyncConnection, *, job: str, period_seconds: float) -> Slot | None:
    """Claim the job's current slot, of `period_seconds`, for LEASE_SECONDS, and count the attempt. None if the slot is
    done, has been tried MAX_ATTEMPTS times, or another worker is still at work on it or on an earlier slot: two runs of
    a job never overlap."""
    owner = uuid7()
    parameters = {
        "id": uuid7(),
        "job": job,
        "owner": owner,
        "period_seconds": period_seconds,
        "lease_seconds": LEASE_SECONDS,
        "max_attempts": MAX_ATTEMPTS,
    }
    row = (await connection.execute(_CLAIM, parameters)).one_or_none()
    return None if row is None else Slot(row.id, owner, row.slot, row.attempts, row.cursor)


async def finish(connection: AsyncConnection, slot: Slot) -> None:
    """Mark the slot as done, unless another worker has claimed it meanwhile."""
    await connection.execute(_FINISH, {"id": slot.id, "owner": slot.owner})


async def hand_on(connection: AsyncConnection, slot: Slot, cursor: Any) -> None:
    """Release the slot with work left: a later claim of the same slot goes on from `cursor`, with all attempts anew.
    Once the slot's period is over, nobody claims it any more."""
    await connection.execute(_CONTINUE, {"id": slot.id, "owner": slot.owner, "cursor": cursor})


async def fail(connection: AsyncConnection, slot: Slot, error: str) -> None:
    """Record that the run failed, and release the slot: it can be claimed again, unless this was the last of
    MAX_ATTEMPTS."""
    parameters = {"id": slot.id, "owner": slot.owner, "error": error, "max_attempts": MAX_ATTEMPTS}
    await connection.execute(_FAIL, parameters)


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete the records of up to `limit` runs that began before `before`, and return how many."""
    return await delete_batch(connection, _runs, _runs.c.started_at < before, limit=limit)


async def database_now(connection: AsyncConnection) -> datetime:
    """Read the database's clock, which all processes share."""
    now: datetime = (await connection.execute(sa.text("SELECT now()"))).scalar_one()
    return now


async def ensure_log_partitions(connection: AsyncConnection, *, months_ahead: int) -> int:
    """Make the partitions of the append-only tables (audit and token reads) up to `months_ahead` months from now.
    Returns how many were new."""
    made = await connection.execute(sa.text("SELECT ensure_log_partitions(:months)"), {"months": months_ahead})
    return int(made.scalar_one())
