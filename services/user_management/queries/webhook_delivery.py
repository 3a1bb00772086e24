"""Deliveries of outgoing webhooks: what is due, and what became of it. By the database's clock."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import DeliveryState
from services.user_management.models import WebhookDelivery

_deliveries = WebhookDelivery.ormar_config.table
_listed = [column for column in _deliveries.c if column.name not in {"body", "subscription_id"}]

# `healthy_only` leaves out whose last delivery failed; `busy` whoever is being sent enough at this moment.
_CLAIM: Final = sa.text("""
UPDATE webhook_deliveries d
SET attempts = d.attempts + 1, next_attempt_at = now() + make_interval(secs => :lease_seconds)
FROM webhook_subscriptions s
WHERE s.id = d.subscription_id AND d.id = (
    SELECT due.id
    FROM webhook_deliveries due
    JOIN webhook_subscriptions o ON o.id = due.subscription_id
    LEFT JOIN service_clients c ON c.id = o.client_id
    WHERE due.state = 'pending' AND due.next_attempt_at <= now() AND due.subscription_id <> ALL(:busy)
      AND o.status = 'active' AND c.disabled_at IS NULL AND (o.failing_since IS NULL OR NOT :healthy_only)
    ORDER BY due.next_attempt_at, due.id
    LIMIT 1
    FOR UPDATE OF due SKIP LOCKED
)
RETURNING d.id, d.subscription_id, d.event_id, d.event_type, d.sequence, d.body, d.attempts, s.url,
    s.secret_ciphertext, s.secret_key_version,
    CASE WHEN s.former_secret_until > now() THEN s.former_secret_ciphertext END AS former_secret_ciphertext,
    s.former_secret_key_version, s.failing_since IS NOT NULL AS is_failing
""").bindparams(
    sa.bindparam("busy", type_=sa.ARRAY(sa.Uuid())),
    sa.bindparam("healthy_only", type_=sa.Boolean()),
    sa.bindparam("lease_seconds", type_=sa.Double()),
)

# Attempts are the fence: after the lease another worker may have tried, and its word is the newer one.
_FAIL: Final = sa.text("""
UPDATE webhook_deliveries
SET last_status = :status, last_error = :error,
    state = CASE WHEN :final THEN 'failed' ELSE state END,
    next_attempt_at = CASE WHEN NOT :final AND NOT :parked THEN now() + make_interval(secs => :retry_seconds) END
WHERE id = :id AND state = 'pending' AND attempts = :attempts
""").bindparams(
    sa.bindparam("status", type_=sa.Integer()),
    sa.bindparam("final", type_=sa.Boolean()),
    sa.bindparam("parked", type_=sa.Boolean()),
    sa.bindparam("retry_seconds", type_=sa.Double()),
)

_POSTPONE: Final = sa.text("""
UPDATE webhook_deliveries
SET attempts = attempts - 1, last_error = :error, next_attempt_at = now() + make_interval(secs => :seconds)
WHERE id = :id AND state = 'pending' AND attempts = :attempts
""").bindparams(sa.bindparam("seconds", type_=sa.Double()))

_REQUEUE: Final = sa.text("""
UPDATE webhook_deliveries SET state = 'pending', attempts = 0, next_attempt_at = now(), delivered_at = NULL
WHERE id = ANY(ARRAY(
    SELECT id FROM webhook_deliveries
    WHERE subscription_id = :subscription_id
      AND (state = 'failed' OR NOT :failed_only)
      AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
      AND (CAST(:event_ids AS uuid[]) IS NULL OR event_id = ANY(:event_ids))
    ORDER BY sequence
    LIMIT :limit
    FOR UPDATE
))
RETURNING created_at
""").bindparams(
    sa.bindparam("since", type_=sa.DateTime(timezone=True)),
    sa.bindparam("until", type_=sa.DateTime(timezone=True)),
    sa.bindparam("event_ids", type_=sa.ARRAY(sa.Uuid())),
    sa.bindparam("failed_only", type_=sa.Boolean()),
)


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """One delivery that is ours until its lease ends, with where it goes and the secrets that sign it, encrypted."""

    id: UUID
    subscription_id: UUID
    event_id: UUID
    event_type: str
    sequence: int
    body: str
    attempts: int
    """This one included."""
    url: str
    secret_ciphertext: bytes
    secret_key_version: int
    former_secret_ciphertext: bytes | None
    """None where there is none, or its time is over."""
    former_secret_key_version: int | None
    is_failing: bool
    """Whether the subscription's last delivery failed."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """What became of an attempt. `retry_seconds` None: it was the last one."""

    status: int | None
    error: str
    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which deliveries; nothing given: those that failed. Times are of their making, `until` excluded."""

    since: datetime | None = None
    until: datetime | None = None
    event_ids: list[UUID] | None = None

    @property
    def failed_only(self) -> bool:
        return self == ReplayFilter()


async def insert(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """New deliveries, due now."""
    values = {
        "state": DeliveryState.PENDING.value,
        "attempts": 0,
        "next_attempt_at": sa.func.now(),
        "created_at": sa.func.now(),
    }
    await connection.execute(sa.insert(_deliveries).values(**values), list(rows))


async def claim_due(
    connection: AsyncConnection, *, busy: Collection[UUID], healthy_only: bool, lease_seconds: float
) -> ClaimedDelivery | None:
    """The delivery that is due longest, of a subscription that is not `busy`; others find it when the lease ends."""
    parameters = {"busy": list(busy), "healthy_only": healthy_only, "lease_seconds": lease_seconds}
    row = (await connection.execute(_CLAIM, parameters)).mappings().one_or_none()
    return None if row is None else ClaimedDelivery(**row)


async def mark_delivered(connection: AsyncConnection, delivery_id: UUID, *, status: int) -> None:
    """It was accepted; whoever tried it meanwhile, it stays so."""
    values = {
        "state": DeliveryState.DELIVERED.value,
        "next_attempt_at": None,
        "last_status": status,
        "last_error": None,
        "delivered_at": sa.func.now(),
    }
    await connection.execute(sa.update(_deliveries).where(_deliveries.c.id == delivery_id).values(**values))


async def mark_failed(
    connection: AsyncConnection, delivery: ClaimedDelivery, attempt: FailedAttempt, *, parked: bool
) -> None:
    """It was not; `parked`: nobody tries again until the subscription is enabled."""
    parameters = {
        "id": delivery.id,
        "attempts": delivery.attempts,
        "status": attempt.status,
        "error": attempt.error,
        "final": attempt.retry_seconds is None,
        "parked": parked,
        "retry_seconds": attempt.retry_seconds or 0.0,
    }
    await connection.execute(_FAIL, parameters)


async def postpone(connection: AsyncConnection, delivery: ClaimedDelivery, *, error: str, seconds: float) -> None:
    """It could not be tried, which is not the receiver's fault and uses up no attempt."""
    parameters = {"id": delivery.id, "attempts": delivery.attempts, "error": error, "seconds": seconds}
    await connection.execute(_POSTPONE, parameters)


async def park(connection: AsyncConnection, subscription_id: UUID) -> None:
    """Let what is pending wait until the subscription is enabled. Lock that first."""
    await _set_pending(connection, subscription_id, None)


async def unpark(connection: AsyncConnection, subscription_id: UUID) -> None:
    """What is pending is due now. Lock the subscription first."""
    await _set_pending(connection, subscription_id, sa.func.now())


async def _set_pending(connection: AsyncConnection, subscription_id: UUID, due: Any) -> None:
    pending = (_deliveries.c.subscription_id == subscription_id, _deliveries.c.state == DeliveryState.PENDING.value)
    await connection.execute(sa.update(_deliveries).where(*pending).values(next_attempt_at=due))


async def list_deliveries(
    connection: AsyncConnection, subscription_id: UUID, *, state: DeliveryState | None, before: int | None, limit: int
) -> Sequence[sa.RowMapping]:
    """Deliveries of a subscription, the newest first."""
    select = (
        sa.select(*_listed)
        .where(_deliveries.c.subscription_id == subscription_id)
        .order_by(_deliveries.c.sequence.desc())
        .limit(limit)
    )
    if state is not None:
        select = select.where(_deliveries.c.state == state.value)
    if before is not None:
        select = select.where(_deliveries.c.sequence < before)
    return (await connection.execute(select)).mappings().all()


async def requeue(
    connection: AsyncConnection, subscription_id: UUID, wanted: ReplayFilter, *, limit: int
) -> list[datetime]:
    """Make deliveries due again, the oldest first, with all their attempts; when each was made, in order."""
    parameters = {
        "subscription_id": subscription_id,
        "failed_only": wanted.failed_only,
        "since": wanted.since,
        "until": wanted.until,
        "event_ids": wanted.event_ids,
        "limit": limit,
    }
    return sorted((await connection.execute(_REQUEUE, parameters)).scalars())


async def prune(connection: AsyncConnection, *, before: UUID) -> None:
    """Forget deliveries older than `before` that got through or were given up; ids are ordered by time."""
    finished = _deliveries.c.state.in_([DeliveryState.DELIVERED.value, DeliveryState.FAILED.value])
    await connection.execute(sa.delete(_deliveries).where(_deliveries.c.id < before, finished))
