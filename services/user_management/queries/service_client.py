"""Statements on sibling services, their keys and their grants."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.database import DriverPool, fetch_row, fetch_rows
from services.user_management.models import ServiceClient, ServiceGrant

_clients = ServiceClient.ormar_config.table
_grants = ServiceGrant.ormar_config.table
_DRIVER_TIMEOUT_SECONDS: Final = 2.0

LIVE_KEY: Final = "(k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))"
"""An SQL condition: the key `k` is neither revoked nor expired, by the database's clock."""

_AUTHENTICATE: Final = f"""
SELECT c.id, c.name, c.permissions
FROM service_keys k
JOIN service_clients c ON c.id = k.client_id
WHERE k.id = $1 AND k.secret_hash = $2 AND {LIVE_KEY} AND c.disabled_at IS NULL
"""  # noqa: S608 - our own constant
"""This and _LIVE_KEYS are plain SQL for the driver, because both are in the path of services' requests."""

_LIVE_KEYS: Final = f"""
SELECT k.id, k.secret_hash
FROM service_keys k
JOIN service_clients c ON c.id = k.client_id
WHERE {LIVE_KEY} AND c.disabled_at IS NULL
"""  # noqa: S608 - our own constant

_KEYS: Final = sa.text(f"""
SELECT id, client_id, created_at, expires_at, last_used_at, revoked_at, {LIVE_KEY} AS live
FROM service_keys k
WHERE client_id = ANY(:client_ids)
ORDER BY created_at, id
""").bindparams(sa.bindparam("client_ids", type_=sa.ARRAY(sa.Uuid())))  # noqa: S608 - our own constant

_END_KEYS: Final = sa.text(f"""
WITH live AS (
    SELECT id, expires_at FROM service_keys k
    WHERE client_id = :client_id AND {LIVE_KEY}
    FOR UPDATE
)
UPDATE service_keys k SET expires_at = least(live.expires_at, now() + make_interval(secs => :overlap_seconds))
FROM live WHERE k.id = live.id
RETURNING k.id, live.expires_at AS former_end, k.expires_at AS new_end
""").bindparams(sa.bindparam("overlap_seconds", type_=sa.Double()))  # noqa: S608 - our own constant

_REVOKE_KEYS: Final = sa.text("""
UPDATE service_keys SET revoked_at = now()
WHERE client_id = :client_id AND revoked_at IS NULL AND (CAST(:key_id AS text) IS NULL OR id = :key_id)
RETURNING id
""").bindparams(sa.bindparam("key_id", type_=sa.Text()))

# A row that another transaction is changing is passed over, not waited for: the answer with the token waits for this
# statement.
_RECORD_USE: Final = sa.text("""
UPDATE service_keys SET last_used_at = now()
WHERE id = (
    SELECT id FROM service_keys
    WHERE id = :key_id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
    FOR NO KEY UPDATE SKIP LOCKED
)
""")


@dataclass(frozen=True, slots=True)
class Caller:
    """The service that a key belongs to."""

    client_id: UUID
    name: str
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClientRow:
    """The row of a service. `disabled_at` None: it is enabled."""

    id: UUID
    name: str
    permissions: list[str]
    disabled_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its hash. `live`: it is neither revoked nor expired, by the database's clock."""

    id: str
    client_id: UUID
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    live: bool


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A grant that lets a service read tokens of `provider`. `scopes` are those that it may ask for; None means any. If
    `reason_required`, each read must state a reason."""

    client_id: UUID
    provider: str
    scopes: list[str] | None
    reason_required: bool


@dataclass(frozen=True, slots=True)
class EndedKey:
    """A key whose expiry `end_live_keys` has set, from `former_end` (None: never) to `new_end`."""

    id: str
    former_end: datetime | None
    new_end: datetime


async def authenticate(pool: DriverPool, *, key_id: str, secret_hash: bytes) -> Caller | None:
    """Return the service that a key belongs to; None unless there is a key with this id and secret hash, it is neither
    revoked nor expired, and its service is not disabled. Raises TimeoutError if no connection is free in time."""
    row = await fetch_row(pool, _AUTHENTICATE, key_id, secret_hash, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return None if row is None else Caller(row["id"], row["name"], frozenset(json.loads(row["permissions"])))


async def live_keys(pool: DriverPool) -> frozenset[tuple[str, bytes]]:
    """List (id, secret hash) of every key with which a service can authenticate now. Raises TimeoutError if there is no
    answer in time."""
    rows = await fetch_rows(pool, _LIVE_KEYS, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return frozenset((row["id"], row["secret_hash"]) for row in rows)


async def lock_client(connection: AsyncConnection, name: str) -> ClientRow | None:
    """Read the row of the service called `name`, and lock it until the transaction ends; None: there is no such
    service."""
    statement = sa.select(_clients).where(_clients.c.name == name).with_for_update()
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else ClientRow(**row)


async def list_clients(connection: AsyncConnection, name: str | None) -> list[ClientRow]:
    """List the service called `name`, or all services if it is None, in the order of their names."""
    statement = sa.select(_clients).order_by(_clients.c.name)
    if name is not None:
        statement = statement.where(_clients.c.name == name)
    return [ClientRow(**row) for row in (await connection.execute(statement)).mappings()]


async def list_keys(connection: AsyncConnection, client_ids: list[UUID]) -> list[KeyRow]:
    """List all keys of some services, revoked and expired ones too, the oldest first."""
    rows = await connection.execute(_KEYS, {"client_ids": client_ids})
    return [KeyRow(**row) for row in rows.mappings()]


async def list_grants(connection: AsyncConnection, client_ids: list[UUID]) -> list[GrantRow]:
    """List the grants of some services, in the order of providers."""
    columns = (_grants.c.client_id, _grants.c.provider, _grants.c.scopes, _grants.c.reason_required)
    statement = sa.select(*columns).where(_grants.c.client_id.in_(client_ids)).order_by(_grants.c.provider)
    return [GrantRow(**row) for row in (await connection.execute(statement)).mappings()]


async def end_live_keys(connection: AsyncConnection, client_id: UUID, *, overlap_seconds: float) -> list[EndedKey]:
    """Let every live key of a service expire in `overlap_seconds`, or earlier if it would have expired before. Returns
    these keys. Lock the service first."""
    parameters = {"client_id": client_id, "overlap_seconds": overlap_seconds}
    return [EndedKey(**row) for row in (await connection.execute(_END_KEYS, parameters)).mappings()]


async def revoke_keys(connection: AsyncConnection, client_id: UUID, *, key_id: str | None = None) -> list[str]:
    """Revoke the key `key_id` of a service, or all its keys if that is None. Returns the ids of those that were not
    revoked before."""
    rows = await connection.execute(_REVOKE_KEYS, {"client_id": client_id, "key_id": key_id})
    return sorted(row.id for row in rows)


async def set_permissions(connection: AsyncConnection, client_id: UUID, permissions: list[str]) -> None:
    """Replace a service's permissions. Lock the service first."""
    await connection.execute(sa.update(_clients).where(_clients.c.id == client_id).values(permissions=permissions))


async def set_disabled(connection: AsyncConnection, client_id: UUID, *, disabled: bool) -> None:
    """Disable a service, or enable it again. Lock the service first."""
    disabled_at = sa.func.now() if disabled else sa.null()
    await connection.execute(sa.update(_clients).where(_clients.c.id == client_id).values(disabled_at=disabled_at))


async def record_use(connection: AsyncConnection, key_id: str) -> None:
    """Record that a key is in use now, unless that was recorded within the last minute or its row is being changed."""
    await connection.execute(_RECORD_USE, {"key_id": key_id})
