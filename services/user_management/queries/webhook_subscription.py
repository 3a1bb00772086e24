"""Statements on webhook subscriptions. Those with a parameter `owner`, the name of a service, find only subscriptions
of that service; None: of any owner. `admins` are always the ids of the users who administer."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import ServicePermission, SubscriptionStatus
from services.user_management.models import ServiceClient, ServiceGrant, WebhookSubscription
from services.user_management.queries.rows import all_rows, one_row
from services.user_management.queries.service_client import LIVE_KEY


@dataclass(frozen=True, slots=True)
class ShownSubscription:
    """A subscription as its owner sees it, without its secret. `owner` is a service's name or a user's id;
    `owner_may_hear` whether the owner may receive events at present."""

    id: UUID
    owner: str
    owner_may_hear: bool
    created_by: str
    url: str
    description: str | None
    event_types: list[str]
    status: str
    disabled_reason: str | None
    failing_since: datetime | None
    last_sequence: int
    former_secret_until: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


class SubscriptionColumns(TypedDict, total=False):
    """Columns of a subscription to be written; those that are left out stay as they are."""

    url: str
    description: str | None
    event_types: list[str]
    status: str
    disabled_reason: str | None
    failing_since: datetime | None
    version: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Listener:
    """An active subscription whose owner may receive events. `providers` are those that its service has a grant for;
    events about integrations with others are not sent to it. None: its owner is an administrator and gets all
    events."""

    id: UUID
    event_types: list[str]
    last_sequence: int
    providers: frozenset[str] | None


_subscriptions = WebhookSubscription.ormar_config.table
_clients = ServiceClient.ormar_config.table
_grants = ServiceGrant.ormar_config.table

# Each subquery reads one row by its key. Written with EXISTS, Postgres could hash all users, or all services, instead.
OWNER_MAY_HEAR: Final = f"""
(CASE WHEN {{subscription}}.client_id IS NULL THEN (
    SELECT u.status = 'active' AND u.deleted_at IS NULL AND u.id = ANY(:admins)
    FROM users u
    WHERE u.id = {{subscription}}.created_by COLLATE "C"
) ELSE (
    SELECT c.disabled_at IS NULL AND c.permissions ?| ARRAY['webhooks:manage', 'admin']
    FROM service_clients c
    WHERE c.id = {{subscription}}.client_id
      AND (SELECT true FROM service_keys k WHERE k.client_id = c.id AND {LIVE_KEY} LIMIT 1)
) END IS TRUE)
"""  # noqa: S608 - our own constant
"""An SQL condition: the owner of the subscription may receive events at present, as the owner would be allowed to make
the subscription now. Put the subscriptions' alias in for `subscription`, and bind `admins`."""

ADMINS: Final = sa.bindparam("admins", type_=sa.ARRAY(sa.Text()))

_may_hear: Final = sa.text(OWNER_MAY_HEAR.format(subscription=_subscriptions.name)).bindparams(ADMINS)
_owned = _subscriptions.outerjoin(_clients, _clients.c.id == _subscriptions.c.client_id)
_shown = sa.select(
    *(_subscriptions.c[name] for name in ShownSubscription.__dataclass_fields__ if name in _subscriptions.c),
    sa.func.coalesce(_clients.c.name, _subscriptions.c.created_by).label("owner"),
    sa.type_coerce(_may_hear, sa.Boolean()).label("owner_may_hear"),
).select_from(_owned)

_LOCK_CREATION: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('webhook_subscriptions'))")

_IS_UNLIMITED: Final = sa.or_(
    _subscriptions.c.client_id.is_(None), _clients.c.permissions.has_key(ServicePermission.ADMIN.value)
).label("is_unlimited")
_PROVIDERS: Final = (
    sa.select(sa.func.array_agg(_grants.c.provider))
    .where(_grants.c.client_id == _subscriptions.c.client_id)
    .scalar_subquery()
    .label("providers")
)

_NOTE_FAILURE: Final = sa.text("""
UPDATE webhook_subscriptions SET failing_since = coalesce(failing_since, now())
WHERE id = :id
RETURNING status, failing_since <= now() - make_interval(secs => :patience_seconds) AS too_long
""").bindparams(sa.bindparam("patience_seconds", type_=sa.Double()))


@dataclass(frozen=True, slots=True)
class FailureState:
    """The state of a subscription after a failed delivery. `too_long`: all deliveries have failed for longer than the
    `patience_seconds` of `note_failure`."""

    is_active: bool
    too_long: bool


async def lock_creation(connection: AsyncConnection) -> None:
    """Wait until no other transaction is making a subscription, and keep others from making one until this transaction
    ends, so that an owner's subscriptions can be counted."""
    await connection.execute(_LOCK_CREATION)


async def count_owned(connection: AsyncConnection, *, client_id: UUID | None, created_by: str) -> int:
    """Count the subscriptions of a service or, if `client_id` is None, of the user `created_by`."""
    owned = _subscriptions.c.client_id
    mine = owned == client_id if client_id else owned.is_(None) & (_subscriptions.c.created_by == created_by)
    return int(
        (await connection.execute(sa.select(sa.func.count()).select_from(_subscriptions).where(mine))).scalar_one()
    )


async def find(
    connection: AsyncConnection, subscription_id: UUID, *, owner: str | None, admins: Collection[str]
) -> ShownSubscription | None:
    """Read one subscription; None if there is none, or if it does not belong to the service `owner`."""
    select = _shown.where(_subscriptions.c.id == subscription_id)
    return await _one(connection, select, owner=owner, admins=admins)


async def lock(
    connection: AsyncConnection, subscription_id: UUID, *, owner: str | None, admins: Collection[str]
) -> ShownSubscription | None:
    """Read one subscription as `find` does, and lock it until the transaction ends."""
    select = _shown.where(_subscriptions.c.id == subscription_id).with_for_update(of=_subscriptions, key_share=True)
    return await _one(connection, select, owner=owner, admins=admins)


async def _one(
    connection: AsyncConnection, select: sa.Select[Any], *, owner: str | None, admins: Collection[str]
) -> ShownSubscription | None:
    if owner is not None:
        select = select.where(_clients.c.name == owner)
    return one_row(ShownSubscription, await connection.execute(select, {"admins": list(admins)}))


async def list_owned(
    connection: AsyncConnection, *, owner: str | None, admins: Collection[str], before: UUID | None, limit: int
) -> list[ShownSubscription]:
    """List the subscriptions of the service `owner`, or all if that is None, the newest first; with `before`, only
    those with a lower id. Ids are ordered by time."""
    select = _shown.order_by(_subscriptions.c.id.desc()).limit(limit)
    if owner is not None:
        select = select.where(_clients.c.name == owner)
    if before is not None:
        select = select.where(_subscriptions.c.id < before)
    return all_rows(ShownSubscription, await connection.execute(select, {"admins": list(admins)}))


async def update(connection: AsyncConnection, subscription_id: UUID, values: SubscriptionColumns) -> None:
    """Write some columns of a subscription, which must be locked."""
    await connection.execute(_update_of(subscription_id).values(**values))


def _update_of(subscription_id: UUID) -> sa.Update:
    return sa.update(_subscriptions).where(_subscriptions.c.id == subscription_id)


async def delete(connection: AsyncConnection, subscription_id: UUID) -> None:
    """Delete a subscription with all its deliveries."""
    await connection.execute(sa.delete(_subscriptions).where(_subscriptions.c.id == subscription_id))


async def lock_listeners(connection: AsyncConnection, *, admins: Collection[str]) -> list[Listener]:
    """Lock and list the active subscriptions whose owners may receive events at this moment, in the order of their ids.
    While these are locked, no other transaction numbers their deliveries."""
    select = (
        sa.select(
            _subscriptions.c.id,
            _subscriptions.c.event_types,
            _subscriptions.c.last_sequence,
            _IS_UNLIMITED,
            _PROVIDERS,
        )
        .select_from(_owned)
        .where(_subscriptions.c.status == SubscriptionStatus.ACTIVE.value, _may_hear)
        .order_by(_subscriptions.c.id)
        .with_for_update(of=_subscriptions, key_share=True)
    )
    return [
        Listener(
            row.id,
            row.event_types,
            row.last_sequence,
            None if row.is_unlimited else frozenset(row.providers or ()),
        )
        for row in await connection.execute(select, {"admins": list(admins)})
    ]


async def set_last_sequence(connection: AsyncConnection, numbers: Mapping[UUID, int]) -> None:
    """Write the number of each subscription's newest delivery. Lock the subscriptions first."""
    update_one = (
        sa.update(_subscriptions)
        .where(_subscriptions.c.id == sa.bindparam("of_id"))
        .values(last_sequence=sa.bindparam("number"))
    )
    await connection.execute(update_one, [{"of_id": id_, "number": number} for id_, number in numbers.items()])


async def note_failure(
    connection: AsyncConnection, subscription_id: UUID, *, patience_seconds: float
) -> FailureState | None:
    """Record that a delivery failed, and lock the subscription. `patience_seconds` is how long all deliveries may fail.
    None: the subscription no longer exists."""
    parameters = {"id": subscription_id, "patience_seconds": patience_seconds}
    row = (await connection.execute(_NOTE_FAILURE, parameters)).one_or_none()
    return None if row is None else FailureState(row.status == SubscriptionStatus.ACTIVE, row.too_long)


async def note_success(connection: AsyncConnection, subscription_id: UUID) -> None:
    """Record that a delivery was accepted, which ends a run of failures. Without such a run nothing is written or
    locked."""
    await connection.execute(
        sa.update(_subscriptions)
        .where(_subscriptions.c.id == subscription_id, _subscriptions.c.failing_since.is_not(None))
        .values(failing_since=None)
    )


async def replace_secret(
    connection: AsyncConnection,
    subscription_id: UUID,
    sealed: tuple[bytes, int],
    *,
    overlap: timedelta,
) -> None:
    """Store a new signing secret, `sealed` as (ciphertext, key version). The secret that it replaces becomes the
    former one, which signs too for `overlap`; if that is 0, it is not kept. Lock the subscription first."""
    stays = bool(overlap)
    values = {
        "former_secret_ciphertext": _subscriptions.c.secret_ciphertext if stays else None,
        "former_secret_key_version": _subscriptions.c.secret_key_version if stays else None,
        "former_secret_until": sa.func.now() + overlap if stays else None,
        "secret_ciphertext": sealed[0],
        "secret_key_version": sealed[1],
        "version": _subscriptions.c.version + 1,
        "updated_at": sa.func.now(),
    }
    await connection.execute(_update_of(subscription_id).values(**values))


async def disable(connection: AsyncConnection, subscription_id: UUID, *, reason: str) -> None:
    """Disable a subscription: nothing more is queued for it, and its pending deliveries are not touched. Lock the
    subscription first."""
    values = {
        "status": SubscriptionStatus.DISABLED.value,
        "disabled_reason": reason,
        "version": _subscriptions.c.version + 1,
        "updated_at": sa.func.now(),
    }
    await connection.execute(_update_of(subscription_id).values(**values))
