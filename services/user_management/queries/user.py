"""Statements on users and their identities: finding, locking and writing them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.database import DriverPool, fetch_row
from services.user_management.models import User, erased_subjects, sign_ins, user_identities
from services.user_management.queries.rows import all_rows, one_row
from services.user_management.queries.user_rows import Profile, ResolvedUser, UpstreamState, UserColumns, UserRow

_users = User.ormar_config.table
_DRIVER_TIMEOUT_SECONDS: Final = 2.0

IDENTITY: Final = """
SELECT u.id, u.status, u.deleted_at, u.last_active_at
FROM user_identities i JOIN users u ON u.id = i.user_id
WHERE i.issuer = $1 AND i.subject = $2
"""
"""As plain SQL for the driver, as is the next: both are in the path of every request of every user."""

PROFILE: Final = """
SELECT id, email, email_verified, first_name, last_name, profile_image_url, phone, status, onboarding_completed,
       onboarding_step, last_login_at, last_active_at, version, created_at, updated_at
FROM users WHERE id = $1 AND deleted_at IS NULL
"""


async def read_identity(pool: DriverPool, *, issuer: str, subject: str) -> ResolvedUser | None:
    """Find the user who signs in as (issuer, subject); None if there is none."""
    row = await fetch_row(pool, IDENTITY, issuer, subject, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return None if row is None else ResolvedUser(*row)


async def read_profile(pool: DriverPool, user_id: str) -> Profile | None:
    """Read the profile of a user who is not deleted."""
    row = await fetch_row(pool, PROFILE, user_id, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return None if row is None else Profile(*row)


async def read_user(connection: AsyncConnection, user_id: str) -> UserRow | None:
    """Read a user's row, deleted or not."""
    return one_row(UserRow, await connection.execute(sa.select(_users).where(_users.c.id == user_id)))


async def read_users(connection: AsyncConnection, user_ids: Sequence[str]) -> list[UserRow]:
    """Read the rows of those of `user_ids` who are not deleted."""
    select = sa.select(_users).where(_users.c.id.in_(user_ids), _users.c.deleted_at.is_(None))
    return all_rows(UserRow, await connection.execute(select))


async def read_upstream_state(
    connection: AsyncConnection, *, issuer: str, subjects: Sequence[str]
) -> dict[str, UpstreamState]:
    """Read, for each subject, which of upstream's news its user's row holds."""
    select = (
        sa.select(
            user_identities.c.subject,
            _users.c.restored_at,
            _users.c.upstream_updated_at,
            _users.c.upstream_event_at,
            _users.c.upstream_digest,
        )
        .join(_users, _users.c.id == user_identities.c.user_id)
        .where(user_identities.c.issuer == issuer, user_identities.c.subject.in_(subjects))
    )
    return {state.subject: state for state in all_rows(UpstreamState, await connection.execute(select))}


async def live_subjects(connection: AsyncConnection, *, issuer: str, after: str, limit: int) -> Sequence[str]:
    """List subjects of `issuer` whose users are not deleted, beginning after `after`. Users whom an administrator
    restored, and of whom upstream has told nothing since, are left out."""
    select = (
        sa.select(user_identities.c.subject)
        .join(_users, _users.c.id == user_identities.c.user_id)
        .where(
            user_identities.c.issuer == issuer,
            user_identities.c.subject > after,
            _users.c.deleted_at.is_(None),
            sa.or_(_users.c.restored_at.is_(None), _users.c.upstream_event_at > _users.c.restored_at),
        )
        .order_by(user_identities.c.subject)
        .limit(limit)
    )
    return (await connection.execute(select)).scalars().all()


async def insert_user(connection: AsyncConnection, values: UserColumns, *, issuer: str, subject: str) -> bool:
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


async def lock_user(connection: AsyncConnection, user_id: str) -> UserRow | None:
    """Read the user's row, and lock it until the transaction ends."""
    select = sa.select(_users).where(_users.c.id == user_id).with_for_update()
    return one_row(UserRow, await connection.execute(select))


async def lock_identity(connection: AsyncConnection, *, issuer: str, subject: str) -> UserRow | None:
    """Read the row of the user who signs in as (issuer, subject), and lock it until the transaction ends."""
    select = (
        sa.select(_users)
        .join(user_identities, user_identities.c.user_id == _users.c.id)
        .where(user_identities.c.issuer == issuer, user_identities.c.subject == subject)
        .with_for_update(of=_users)
    )
    return one_row(UserRow, await connection.execute(select))


async def update_user(connection: AsyncConnection, user_id: str, values: UserColumns) -> None:
    """Write `values` to a locked row."""
    await connection.execute(sa.update(_users).where(_users.c.id == user_id).values(**values))


async def note_activity(connection: AsyncConnection, user_id: str, *, step: timedelta) -> None:
    """Write that the user is active now, unless that was written within the last `step` or the row is being changed."""
    due = sa.or_(_users.c.last_active_at.is_(None), _users.c.last_active_at < sa.func.now() - step)
    # FOR NO KEY UPDATE SKIP LOCKED: the answer to the user waits for this.
    free = sa.select(_users.c.id).where(_users.c.id == user_id, due).with_for_update(skip_locked=True, key_share=True)
    update = sa.update(_users).where(_users.c.id == free.scalar_subquery()).values(last_active_at=sa.func.now())
    await connection.execute(update)


async def record_sign_in(
    connection: AsyncConnection, *, user_id: str, issuer: str, session_id: str, started_at: datetime
) -> None:
    """Record a session of the user; a known session changes nothing."""
    values = {"issuer": issuer, "session_id": session_id, "user_id": user_id, "started_at": started_at}
    await connection.execute(postgresql.insert(sign_ins).values(values).on_conflict_do_nothing())
    latest = sa.func.greatest(_users.c.last_login_at, sa.bindparam("started_at", started_at))
    await connection.execute(sa.update(_users).where(_users.c.id == user_id).values(last_login_at=latest))


async def count_sign_ins(connection: AsyncConnection, user_id: str, *, window: timedelta) -> int:
    """Count the sessions of the user that began within the last `window`."""
    select = sa.select(sa.func.count()).where(
        sign_ins.c.user_id == user_id, sign_ins.c.started_at > sa.func.now() - window
    )
    return int((await connection.execute(select)).scalar_one())


async def prune_sign_ins(connection: AsyncConnection, *, before: datetime) -> None:
    """Delete sessions that began before `before`, which nobody counts any more."""
    await connection.execute(sa.delete(sign_ins).where(sign_ins.c.started_at < before))


async def is_erased(connection: AsyncConnection, subject_hashes: Sequence[bytes]) -> bool:
    """Tell whether the subject was erased and must not come back. `subject_hashes`: its hash under each of our
    secrets."""
    select = sa.select(erased_subjects.c.subject_hash).where(erased_subjects.c.subject_hash.in_(subject_hashes))
    return (await connection.execute(select.limit(1))).one_or_none() is not None


async def insert_tombstone(connection: AsyncConnection, subject_hash: bytes) -> None:
    """Record that the subject was erased."""
    values = {"subject_hash": subject_hash, "erased_at": sa.func.now()}
    await connection.execute(postgresql.insert(erased_subjects).values(values).on_conflict_do_nothing())


async def lock_due_for_erasure(connection: AsyncConnection, *, hold_back: timedelta) -> str | None:
    """Lock the user who was deleted longest ago, and at least `hold_back` ago, and return the id. Users whom another
    worker has locked are passed over."""
    select = (
        sa.select(_users.c.id)
        .where(_users.c.deleted_at < sa.func.now() - hold_back)
        .order_by(_users.c.deleted_at, _users.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(select)).scalar_one_or_none()


async def identities_of(connection: AsyncConnection, user_id: str) -> list[tuple[str, str]]:
    """List (issuer, subject) of every identity of the user."""
    select = sa.select(user_identities.c.issuer, user_identities.c.subject).where(user_identities.c.user_id == user_id)
    return [(row.issuer, row.subject) for row in await connection.execute(select)]


async def delete_user(connection: AsyncConnection, user_id: str) -> None:
    """Delete the user's row and, by foreign keys, all rows that belong to the user."""
    await connection.execute(sa.delete(_users).where(_users.c.id == user_id))


async def erase_audit_details(connection: AsyncConnection, user_id: str) -> None:
    """Delete old and new values from the audit of a user whose row is gone."""
    await connection.execute(sa.text("SELECT erase_audit_details(:user_id)"), {"user_id": user_id})
