"""Statements on refreshes that no token read asks for: those that are due before a reader needs them, and those whose
outcome is unknown. All times are by the database's clock, so hosts whose clocks differ agree."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_UNSETTLED = sa.text("""
SELECT id, token_version FROM integrations
WHERE refresh_attempts > 0 AND id > :after AND status IN ('active', 'degraded')
  AND (refresh_lease_until IS NULL OR refresh_lease_until < now())
  AND (refresh_not_before IS NULL OR refresh_not_before <= now())
  AND EXISTS (SELECT FROM users u WHERE u.id = user_id AND u.deleted_at IS NULL AND u.status = 'active')
ORDER BY id LIMIT :limit
""")

# Without this, among many rows Postgres makes a new plan for the values of every page. It is the same plan each time,
# and making it takes longer than reading the page.
_KEEP_PLAN = sa.text("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)")

# Users who are not served are excluded, rather than served ones joined: users who are not served are few and their
# index is in memory, while served users are many and their rows lie anywhere.
_DUE = sa.text("""
SELECT i.id, i.token_version, i.refresh_due_at
FROM integrations i
WHERE i.refresh_due_at < now() + make_interval(secs => :within_seconds)
  AND (i.refresh_due_at, i.id) > (:after, :after_id)
  AND i.refresh_issued_at < date_bin(make_interval(secs => :period_seconds), now(), 'epoch')
  AND i.status IN ('active', 'degraded') AND i.refresh_lease_until IS NULL
  AND (i.refresh_not_before IS NULL OR i.refresh_not_before <= now())
  AND NOT EXISTS (
      SELECT FROM users u WHERE u.id = i.user_id AND (u.deleted_at IS NOT NULL OR u.status <> 'active'))
ORDER BY i.refresh_due_at, i.id LIMIT :limit
""").bindparams(sa.bindparam("after", type_=sa.DateTime(timezone=True)), sa.bindparam("after_id", type_=sa.Uuid()))

_COUNT_DUE = sa.text("""
SELECT count(*) FROM integrations
WHERE refresh_due_at < now() + make_interval(secs => :within_seconds) AND status IN ('active', 'degraded')
""")


@dataclass(frozen=True, slots=True)
class DueRefresh:
    integration_id: UUID
    token_version: int


class DuePosition(NamedTuple):
    """A place in the walk over integrations in the order in which their access tokens run out; the default is before
    all integrations."""

    due_at: datetime = datetime.min.replace(tzinfo=UTC)
    integration_id: UUID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class DueStep:
    """One integration of the walk, and the walk's position after it."""

    refresh: DueRefresh
    position: DuePosition


async def unsettled(connection: AsyncConnection, *, after: UUID, limit: int) -> list[DueRefresh]:
    """List the next `limit` integrations, in the order of their ids and after the id `after`, for which the outcome of
    a refresh is unknown and no process holds the lease. Left out are those that are in a cool-down or cannot serve
    tokens, or whose user is deleted or not active."""
    rows = await connection.execute(_UNSETTLED, {"after": after, "limit": limit})
    return [DueRefresh(row.id, row.token_version) for row in rows]


async def due(
    connection: AsyncConnection, *, within_seconds: float, period_seconds: float, after: DuePosition, limit: int
) -> list[DueStep]:
    """List the next `limit` integrations whose access token runs out within `within_seconds` or has run out, the
    soonest first, after the position `after`. Only integrations with a refresh token are listed; left out are those
    that have a lease (one that has ended too: `unsettled` lists these) or are in a cool-down, that cannot serve tokens,
    or whose user is deleted or not active.

    A token that was issued within the current period of `period_seconds` is left alone, however short it lives:
    otherwise a run would never end. Tokens of suspended users, which ran out long ago, come first in this order, and a
    walk passes over them only once.
    """
    parameters = {
        "within_seconds": within_seconds,
        "period_seconds": period_seconds,
        "after": after.due_at,
        "after_id": after.integration_id,
        "limit": limit,
    }
    await connection.execute(_KEEP_PLAN)
    rows = await connection.execute(_DUE, parameters)
    return [DueStep(DueRefresh(row.id, row.token_version), DuePosition(row.refresh_due_at, row.id)) for row in rows]


async def count_due(connection: AsyncConnection, *, within_seconds: float) -> int:
    """Count roughly how many integrations `due` will list in all: some that it leaves out are counted too."""
    return int((await connection.execute(_COUNT_DUE, {"within_seconds": within_seconds})).scalar_one())
