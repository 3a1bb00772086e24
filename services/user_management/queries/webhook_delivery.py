"""Statements on deliveries of outgoing webhooks: to store, claim, record, list and repeat them. All times are by the
database's clock."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor
from services.user_management.enums import DeliveryState, SubscriptionStatus
from services.user_management.models import WebhookDelivery, WebhookSubscription
from services.user_management.queries.pruning import delete_batch
from services.user_management.queries.rows import all_rows, columns_of
from services.user_management.queries.webhook_subscription import ADMINS, OWNER_MAY_HEAR

_deliveries = WebhookDelivery.ormar_config.table
_subscriptions = WebhookSubscription.ormar_config.table
_pending = _deliveries.c.state == DeliveryState.PENDING.value

# A pending delivery of a disabled subscription is parked: it has no `next_attempt_at` until the subscription is
# enabled. Statements that set a time or park are run after an earlier statement has locked the subscription, so that
# they see its present status. Deliveries of an owner who may not receive events keep their time, and `_CLAIM` passes
# them over: who may receive events also changes by time and settings, without any statement.
_is_active = (
    sa.select(_subscriptions.c.status == SubscriptionStatus.ACTIVE.value)
    .where(_subscriptions.c.id == _deliveries.c.subscription_id)
    .correlate(_deliveries)
    .scalar_subquery()
)

# The statement first orders the subscriptions by their longest due delivery, then takes a delivery of the first one
# that has a delivery to lock: one or two index look-ups per subscription, however much is due to one of them.
# `healthy_only` leaves out subscriptions whose last delivery failed; `busy` those that are being sent enough at this
# moment.
_CLAIM: Final = sa.text(f"""
UPDATE webhook_deliveries d
SET attempts = d.attempts + 1, next_attempt_at = now() + make_interval(secs => :lease_seconds)
FROM webhook_subscriptions s
WHERE s.id = d.subscription_id AND d.id = (
    SELECT due.id
    FROM (
        SELECT o.id, oldest.next_attempt_at
        FROM webhook_subscriptions o
        CROSS JOIN LATERAL (
            SELECT p.next_attempt_at
            FROM webhook_deliveries p
            WHERE p.subscription_id = o.id AND p.state = 'pending' AND p.next_attempt_at <= now()
            ORDER BY p.next_attempt_at, p.id
            LIMIT 1
        ) oldest
        WHERE o.status = 'active' AND {OWNER_MAY_HEAR.format(subscription="o")} AND o.id <> ALL(:busy)
          AND (o.failing_since IS NULL OR NOT :healthy_only)
        ORDER BY oldest.next_attempt_at, o.id
    ) waiting
    CROSS JOIN LATERAL (
        SELECT p.id
        FROM webhook_deliveries p
        WHERE p.subscription_id = waiting.id AND p.state = 'pending' AND p.next_attempt_at <= now()
        ORDER BY p.next_attempt_at, p.id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) due
    LIMIT 1
)
RETURNING d.id, d.subscription_id, d.event_id, d.event_type, d.sequence, d.body, d.attempts,
    d.next_attempt_at AS leased_until, s.url, s.secret_ciphertext, s.secret_key_version,
    CASE WHEN s.former_secret_until > now() THEN s.former_secret_ciphertext END AS former_secret_ciphertext,
    s.former_secret_key_version, s.failing_since IS NOT NULL AS is_failing
""").bindparams(  # noqa: S608 - constants alone
    ADMINS,
    sa.bindparam("busy", type_=sa.ARRAY(sa.Uuid())),
    sa.bindparam("healthy_only", type_=sa.Boolean()),
    sa.bindparam("lease_seconds", type_=sa.Double()),
)

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
    """A delivery that this process has claimed until its lease ends, with its URL and the encrypted secrets that sign
    it."""

    id: UUID
    subscription_id: UUID
    event_id: UUID
    event_type: str
    sequence: int
    body: str
    attempts: int
    """The number of attempts, this one included."""
    leased_until: datetime
    """The end of this claim's lease, which no other claim has."""
    url: str
    secret_ciphertext: bytes
    secret_key_version: int
    former_secret_ciphertext: bytes | None
    """The encrypted former secret, which signs too; None if there is none, or its time is over."""
    former_secret_key_version: int | None
    is_failing: bool
    """Whether the subscription's last delivery failed."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed. `status` is the HTTP status, None without an answer; the next attempt is due in
    `retry_seconds`, None if this was the last one."""

    status: int | None
    error: str
    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be stored: one event for one subscription."""

    id: UUID
    subscription_id: UUID
    event_id: UUID
    event_type: str
    sequence: int
    body: str


@dataclass(frozen=True, slots=True)
class ShownDelivery:
    """A delivery as its subscription's owner sees it."""

    id: UUID
    event_id: UUID
    event_type: str
    sequence: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which deliveries to send again: those that match all criteria, whatever their state; without any criterion, those
    that failed. `since` and `until` are about when a delivery was queued; `until` is exclusive."""

    since: datetime | None = None
    until: datetime | None = None
    event_ids: list[UUID] | None = None

    @property
    def failed_only(self) -> bool:
        return self == ReplayFilter()


async def insert(connection: AsyncConnection, deliveries: Sequence[NewDelivery]) -> None:
    """Store new deliveries, which are due now."""
    values = {
        "state": DeliveryState.PENDING.value,
        "attempts": 0,
        "next_attempt_at": sa.func.now(),
        "created_at": sa.func.now(),
    }
    await connection.execute(sa.insert(_deliveries).values(**values), [columns_of(one) for one in deliveries])


async def hasten_pending(
    connection: AsyncConnection, subscription_id: UUID, *, event_type: str, lease_seconds: float
) -> tuple[UUID, UUID] | None:
    """Find the pending delivery of this type of event that is due first, and make it due now, unless it is due within
    `lease_seconds` anyway, as it is while it is being sent. Returns the delivery's id and the event's; None if none is
    pending. Lock the subscription first."""
    due = _deliveries.c.next_attempt_at
    later = due > sa.func.now() + timedelta(seconds=lease_seconds)
    first = (
        sa.select(_deliveries.c.id)
        .where(_deliveries.c.subscription_id == subscription_id, _pending, _deliveries.c.event_type == event_type)
        .order_by(due, _deliveries.c.id)
        .limit(1)
        .scalar_subquery()
    )
    hasten = (
        _pending_of([subscription_id])
        .where(_deliveries.c.id == first)
        .values(next_attempt_at=sa.case((later, sa.func.now()), else_=due))
        .returning(_deliveries.c.id, _deliveries.c.event_id)
    )
    row = (await connection.execute(hasten)).one_or_none()
    return None if row is None else (row.id, row.event_id)


async def claim_due(
    connection: AsyncConnection,
    *,
    admins: Collection[str],
    busy: Collection[UUID],
    healthy_only: bool,
    lease_seconds: float,
) -> ClaimedDelivery | None:
    """Claim the pending delivery that has been due longest, for `lease_seconds`, and count the attempt; None if there
    is none. If this process dies, others can claim the delivery when the lease ends.

    Left out are deliveries of subscriptions that are disabled or in `busy`, whose owner may not receive events now
    (`admins` are the ids of the users who administer) or, with `healthy_only`, whose last delivery failed.
    """
    parameters = {
        "admins": list(admins),
        "busy": list(busy),
        "healthy_only": healthy_only,
        "lease_seconds": lease_seconds,
    }
    row = (await connection.execute(_CLAIM, parameters)).mappings().one_or_none()
    return None if row is None else ClaimedDelivery(**row)


async def mark_delivered(connection: AsyncConnection, delivery_id: UUID, *, status: int) -> None:
    """Mark a delivery as accepted by the receiver, with its HTTP status, even if another process has tried it
    meanwhile."""
    values = {
        "state": DeliveryState.DELIVERED.value,
        "next_attempt_at": None,
        "last_status": status,
        "last_error": None,
        "delivered_at": sa.func.now(),
    }
    await connection.execute(sa.update(_deliveries).where(_deliveries.c.id == delivery_id).values(**values))


async def mark_failed(connection: AsyncConnection, delivery: ClaimedDelivery, attempt: FailedAttempt) -> None:
    """Record a failed attempt, unless the delivery was claimed again since. Without `retry_seconds` the delivery has
    failed for good. Lock the subscription first."""
    values: dict[str, Any] = {"last_status": attempt.status, "last_error": attempt.error}
    if attempt.retry_seconds is None:
        values |= {"state": DeliveryState.FAILED.value, "next_attempt_at": None}
    else:
        values["next_attempt_at"] = _in(attempt.retry_seconds)
    await connection.execute(_still_ours(delivery).values(**values))


async def postpone(connection: AsyncConnection, delivery: ClaimedDelivery, *, error: str, seconds: float) -> None:
    """Make a delivery that was not sent for a reason of our own due again in `seconds`, unless it was claimed again
    since. The attempt is not counted, since the receiver is not at fault. Lock the subscription first."""
    values = {"attempts": _deliveries.c.attempts - 1, "last_error": error, "next_attempt_at": _in(seconds)}
    await connection.execute(_still_ours(delivery).values(**values))


async def park(connection: AsyncConnection, subscription_ids: Collection[UUID]) -> None:
    """Park the pending deliveries of disabled subscriptions: they are not due until `unpark`. Lock the subscriptions
    first."""
    due = _deliveries.c.next_attempt_at.is_not(None)
    await connection.execute(_pending_of(subscription_ids).where(due).values(next_attempt_at=None))


async def unpark(connection: AsyncConnection, subscription_ids: Collection[UUID]) -> None:
    """Make the parked deliveries of subscriptions that are enabled again due now; those of disabled ones stay parked.
    Lock the subscriptions first."""
    parked = _deliveries.c.next_attempt_at.is_(None)
    await connection.execute(
        _pending_of(subscription_ids).where(parked, _is_active).values(next_attempt_at=sa.func.now())
    )


def _in(seconds: float) -> sa.Case[datetime]:
    """Build the expression for the time `seconds` from now; null if the subscription is disabled, so that the delivery
    is parked."""
    return sa.case((_is_active, sa.func.now() + timedelta(seconds=seconds)))


def _still_ours(delivery: ClaimedDelivery) -> sa.Update:
    """Build an update that applies only if the delivery is pending and nobody has claimed it since: after the lease
    another process may have tried, and its result is the newer one.

    A claim is recognised by the end of its lease. A delivery that was parked meanwhile has lost that time, so its
    number of attempts is compared instead. For deliveries that are not parked this number would not do, because
    `postpone` and `requeue` lower it.
    """
    due = _deliveries.c.next_attempt_at
    is_parked = due.is_(None) & (_deliveries.c.attempts == delivery.attempts)
    ours = sa.or_(due == delivery.leased_until, is_parked)
    return sa.update(_deliveries).where(_deliveries.c.id == delivery.id, _pending, ours)


def _pending_of(subscription_ids: Collection[UUID]) -> sa.Update:
    return sa.update(_deliveries).where(_deliveries.c.subscription_id.in_(subscription_ids), _pending)


async def list_deliveries(
    connection: AsyncConnection, subscription_id: UUID, *, state: DeliveryState | None, before: int | None, limit: int
) -> list[ShownDelivery]:
    """List the deliveries of a subscription, the newest first: those in `state`, or all if that is None; with `before`,
    only those with a lower sequence number."""
    select = (
        sa.select(*(_deliveries.c[field.name] for field in fields(ShownDelivery)))
        .where(_deliveries.c.subscription_id == subscription_id)
        .order_by(_deliveries.c.sequence.desc())
        .limit(limit)
    )
    if state is not None:
        select = select.where(_deliveries.c.state == state.value)
    if before is not None:
        select = select.where(_deliveries.c.sequence < before)
    return all_rows(ShownDelivery, await connection.execute(select))


async def requeue(
    connection: AsyncConnection, subscription_id: UUID, wanted: ReplayFilter, *, limit: int
) -> list[datetime]:
    """Make the `limit` oldest deliveries that match `wanted` due now, with all attempts anew. Returns when each was
    first queued, the earliest first. Lock the subscription first, which must be active."""
    parameters = {
        "subscription_id": subscription_id,
        "failed_only": wanted.failed_only,
        "since": wanted.since,
        "until": wanted.until,
        "event_ids": wanted.event_ids,
        "limit": limit,
    }
    return sorted((await connection.execute(_REQUEUE, parameters)).scalars())


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` deliveries that were queued before `before` and were accepted or have failed for good, and
    return how many; ids are ordered by time."""
    is_old = _deliveries.c.id < uuid7_floor(before)
    return await delete_batch(connection, _deliveries, is_old & ~_pending, limit=limit)
