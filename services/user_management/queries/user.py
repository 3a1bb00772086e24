"""Statements on users and their identities: finding, locking and writing them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.database import DriverPool, fetch_row
from services.user_management.models import User, erased_subjects, sign_ins, user_identities
from services.user_management.queries.pruning import delete_batch
from services.user_management.queries.rows import all_rows, one_row
from services.user_management.queries.user_rows import Profile, ResolvedUser, UpstreamState, UserColumns, UserRow

_users = User.ormar_config.table
_DRIVER_TIMEOUT_SECONDS: Final = 2.0

IDENTITY: Final = """
SELECT u.id, u.status, u.deleted_at, u.last_active_at
FROM user_identities i JOIN users u ON u.id = i.user_id
WHERE i.issuer = $1 AND i.subject = $2
"""
"""This and PROFILE are plain SQL for the driver, because both are in the path of the most frequent requests."""

PROFILE: Final = """
SELECT id, email, email_verified, first_name, last_name, profile_image_url, phone, status, onboarding_completed,
       onboarding_step, last_login_at, last_active_at, version, created_at, updated_at
FROM users WHERE id = $1 AND deleted_at IS NULL
"""


async def read_identity(pool: DriverPool, *, issuer: str, subject: str) -> ResolvedUser | None:
    """Find the user who signs in as (issuer, subject), deleted or not; None if there is none. Raises TimeoutError if no
    connection is free in time."""
    row = await fetch_row(pool, IDENTITY, issuer, subject, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return None if row is None else ResolvedUser(*row)


async def read_profile(pool: DriverPool, user_id: str) -> Profile | None:
    """Read a user's profile; None if there is no such user, or the user is deleted. Raises TimeoutError if no
    connection is free in time."""
    row = await fetch_row(pool, PROFILE, user_id, timeout_seconds=_DRIVER_TIMEOUT_SECONDS)
    return None if row is None else Profile(*row)


async def read_user(connection: AsyncConnection, user_id: str) -> UserRow | None:
    """Read the row of a user, deleted or not; None if there is none."""
    return one_row(UserRow, await connection.execute(sa.select(_users).where(_users.c.id == user_id)))


async def read_users(connection: AsyncConnection, user_ids: Sequence[str]) -> list[UserRow]:
    """Read the rows of those users in `user_ids` who are not deleted, in no particular order."""
    select = sa.select(_users).where(_users.c.id.in_(user_ids), _users.c.deleted_at.is_(None))
    return all_rows(UserRow, await connection.execute(select))


async def read_upstream_state(
    connection: AsyncConnection, *, issuer: str, subjects: Sequence[str]
) -> dict[str, UpstreamState]:
    """Return, by subject, which description of the user the row holds from upstream (the identity provider as the
    source of news about users): its times and its digest. Subjects without a user are left out."""
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
    """List the next `limit` subjects of `issuer` whose users are not deleted, in order, beginning after the subject
    `after`. Users whom an administrator restored, and about whom upstream has sent nothing since, are left out."""
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
    """Insert a user with their first identity. False, and no change, if a user has the id already or, for an id
    `usr_…`, the e-mail. Raises IntegrityError if the identity belongs to another user."""
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
    """Read the row of a user, deleted or not, and lock it until the transaction ends; None if there is none."""
    select = sa.select(_users).where(_users.c.id == user_id).with_for_update()
    return one_row(UserRow, await connection.execute(select))


async def lock_identity(connection: AsyncConnection, *, issuer: str, subject: str) -> UserRow | None:
    """Read the row of the user who signs in as (issuer, subject), deleted or not, and lock it until the transaction
    ends; None if there is none."""
    select = (
        sa.select(_users)
        .join(user_identities, user_identities.c.user_id == _users.c.id)
        .where(user_identities.c.issuer == issuer, user_identities.c.subject == subject)
        .with_for_update(of=_users)
    )
    return one_row(UserRow, await connection.execute(select))


async def update_user(connection: AsyncConnection, user_id: str, values: UserColumns) -> None:
    """Write `values` to the row of a user, which must be locked."""
    await connection.execute(sa.update(_users).where(_users.c.id == user_id).values(**values))


async def note_activity(connection: AsyncConnection, user_id: str, *, step: timedelta) -> None:
    """Record that the user is active now, unless that was recorded within the last `step` or the row is being
    changed."""
    due = sa.or_(_users.c.last_active_at.is_(None), _users.c.last_active_at < sa.func.now() - step)
    # FOR NO KEY UPDATE SKIP LOCKED: the answer to the user waits for this.
    free = sa.select(_users.c.id).where(_users.c.id == user_id, due).with_for_update(skip_locked=True, key_share=True)
    update = sa.update(_users).where(_users.c.id == free.scalar_subquery()).values(last_active_at=sa.func.now())
    await connection.execute(update)


async def record_sign_in(
    connection: AsyncConnection, *, user_id: str, issuer: str, session_id: str, started_at: datetime
) -> None:
    """Record a session of the user, once however often it is reported, and set `last_login_at` to its beginning if that
    is later."""
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


async def prune_sign_ins(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete the records of up to `limit` sessions that began before `before`, which are not counted any more. Returns
    how many."""
    return await delete_batch(connection, sign_ins, sign_ins.c.started_at < before, limit=limit)


async def is_erased(connection: AsyncConnection, subject_hashes: Sequence[bytes]) -> bool:
    """Tell whether a subject was erased and must not become a user again. `subject_hashes`: its keyed hash under each
    of our secrets."""
    select = sa.select(erased_subjects.c.subject_hash).where(erased_subjects.c.subject_hash.in_(subject_hashes))
    return (await connection.execute(select.limit(1))).one_or_none() is not None


async def insert_tombstone(connection: AsyncConnection, subject_hash: bytes) -> None:
    """Record the keyed hash of a subject that was erased."""
    values = {"subject_hash": subject_hash, "erased_at": sa.func.now()}
    await connection.execute(postgresql.insert(erased_subjects).values(values).on_conflict_do_nothing())


async def lock_due_for_erasure(connection: AsyncConnection, *, hold_back: timedelta) -> str | None:
    """Lock the user who was deleted longest ago, and more than `hold_back` ago, and return the id; None if there is
    none. Users whose rows are locked already are passed over."""
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
    """Delete the user's row and, by cascading foreign keys, the rows that refer to it. The audit, the records of token
    reads and the tokens to be revoked stay."""
    await connection.execute(sa.delete(_users).where(_users.c.id == user_id))


async def erase_audit_details(connection: AsyncConnection, user_id: str) -> None:
    """Delete old and new values from the audit of a user whose row is gone. Raises DBAPIError if the row still
    exists."""
    await connection.execute(sa.text("SELECT erase_audit_details(:user_id)"), {"user_id": user_id})
