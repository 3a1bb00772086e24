"""Identities, and users written from upstream under a guard."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import User, erased_subjects, user_identities

_users = User.ormar_config.table

_RESOLVE = (
    sa.select(_users.c.id, _users.c.status, _users.c.deleted_at)
    .join(user_identities, user_identities.c.user_id == _users.c.id)
    .where(user_identities.c.issuer == sa.bindparam("issuer"), user_identities.c.subject == sa.bindparam("subject"))
)


@dataclass(frozen=True, slots=True)
class ResolvedUser:
    """The user behind an identity."""

    id: str
    status: str
    deleted_at: datetime | None


async def resolve_identity(connection: AsyncConnection, *, issuer: str, subject: str) -> ResolvedUser | None:
    """The user who signs in as (issuer, subject); None when nobody does."""
    row = (await connection.execute(_RESOLVE, {"issuer": issuer, "subject": subject})).one_or_none()
    return None if row is None else ResolvedUser(row.id, row.status, row.deleted_at)


async def insert_user(connection: AsyncConnection, values: dict[str, Any], *, issuer: str, subject: str) -> bool:
    """Insert a user with their first identity; False when the id is already taken (by anybody)."""
    insert = postgresql.insert(_users).values(values).on_conflict_do_nothing().returning(_users.c.id)
    if (await connection.execute(insert)).one_or_none() is None:
        return False
    await connection.execute(
        sa.insert(user_identities).values(
            issuer=issuer, subject=subject, user_id=values["id"], created_at=values["created_at"]
        )
    )
    return True


async def lock_user(connection: AsyncConnection, user_id: str) -> dict[str, Any] | None:
    """The user's row, locked until the transaction ends."""
    row = await connection.execute(sa.select(_users).where(_users.c.id == user_id).with_for_update())
    found = row.mappings().one_or_none()
    return None if found is None else dict(found)


async def update_user(connection: AsyncConnection, user_id: str, values: dict[str, Any]) -> None:
    """Write `values` to a locked row and raise its version."""
    await connection.execute(
        sa.update(_users).where(_users.c.id == user_id).values(**values, version=_users.c.version + 1)
    )


async def is_erased(connection: AsyncConnection, subject_hash: bytes) -> bool:
    """Whether the subject was erased and must not come back."""
    found = await connection.execute(
        sa.select(erased_subjects.c.subject_hash).where(erased_subjects.c.subject_hash == subject_hash)
    )
    return found.one_or_none() is not None
