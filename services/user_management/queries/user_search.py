"""Finds users. Each kind of search reads ranges of indexes, so that a page costs the same among a thousand users and a
million."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import User
from services.user_management.models.user import FIRST_NAME_ALONE, LAST_NAME_ALONE
from services.user_management.queries.user_rows import UserRow

_users = User.ormar_config.table
_HIGHEST: Final = "\U0010ffff"
"""Sorts after every character in the byte order of UTF-8."""


@dataclass(frozen=True, slots=True)
class UserFilter:
    """The criteria of a search; None: any value. If prefixes are given, a user must match at least one: `email_prefix`
    is the beginning of the e-mail, `name_prefix` that of the first name, last name or e-mail. Both are in the form of
    the columns `…_normalized`."""

    email_prefix: str | None = None
    name_prefix: str | None = None
    status: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    deleted: bool = False
    """Whether to find deleted users instead of live ones. Not for use with a prefix: no index serves that."""

    @property
    def is_prefix(self) -> bool:
        return self.email_prefix is not None or self.name_prefix is not None


@dataclass(frozen=True, slots=True)
class FoundUser:
    """A user who was found. `matched` is the normalized e-mail or name that begins with the prefix; None if no prefix
    was given."""

    matched: str | None
    user: UserRow


@dataclass(frozen=True, slots=True)
class Position:
    """The place where a page ended: the sort key and the id of its last row."""

    key: str | datetime
    id: str

    @classmethod
    def of(cls, wanted: UserFilter, found: FoundUser) -> "Position":
        """Return the position of `found` in the list of users that match `wanted`. Raises RuntimeError if `found` comes
        from another list and has no sort key of this one."""
        user = found.user
        key = found.matched if wanted.is_prefix else user.deleted_at if wanted.deleted else user.created_at
        if key is None:
            raise RuntimeError("the search left out the column that it is ordered by")
        return cls(key, user.id)

    def encode(self) -> list[str]:
        """Return the position as a list of strings for a cursor."""
        if isinstance(self.key, datetime):
            return ["time", self.key.isoformat(), self.id]
        return ["text", self.key, self.id]

    @classmethod
    def decode(cls, values: list[str]) -> "Position":
        """Return the position that `encode` turned into `values`. The signature of the cursor guarantees that they are
        from there; others raise ValueError."""
        kind, key, user_id = values
        return cls(datetime.fromisoformat(key) if kind == "time" else key, user_id)


async def find_users(
    connection: AsyncConnection, wanted: UserFilter, *, after: Position | None, limit: int
) -> list[FoundUser]:
    """Find the next `limit` users that match `wanted`, after the position `after`. With a prefix they are in the order
    of the e-mail or name that matched; otherwise the ones that were created (or, of deleted users, deleted) last come
    first."""
    found = await connection.execute(_select(wanted, after, limit))
    return [FoundUser(row.pop("matched", None), UserRow(**row)) for row in map(dict, found.mappings())]


def _select(wanted: UserFilter, after: Position | None, limit: int) -> sa.Select[Any]:
    return _by_prefix(wanted, after, limit) if wanted.is_prefix else _by_time(wanted, after, limit)


def _conditions(wanted: UserFilter) -> list[sa.ColumnElement[bool]]:
    deleted = _users.c.deleted_at
    conditions: list[sa.ColumnElement[bool]] = [deleted.is_not(None) if wanted.deleted else deleted.is_(None)]
    if wanted.status is not None:
        conditions.append(_users.c.status == wanted.status)
    if wanted.created_after is not None:
        conditions.append(_users.c.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        conditions.append(_users.c.created_at < wanted.created_before)
    return conditions


def _by_time(wanted: UserFilter, after: Position | None, limit: int) -> sa.Select[Any]:
    key = _users.c.deleted_at if wanted.deleted else _users.c.created_at
    select = sa.select(_users).where(*_conditions(wanted)).order_by(key.desc(), _users.c.id.desc()).limit(limit)
    return select if after is None else select.where(sa.tuple_(key, _users.c.id) < (after.key, after.id))


def _by_prefix(wanted: UserFilter, after: Position | None, limit: int) -> sa.Select[Any]:
    """Build a search with one branch per column that may match, each a range of that column's index. A user who matches
    in several columns is listed by the first of these branches only. The indexes of later columns leave out users whom
    an earlier branch always finds."""
    branches = []
    earlier: list[sa.ColumnElement[bool]] = []
    folded = wanted.name_prefix if wanted.name_prefix != wanted.email_prefix else None
    for column, prefix, alone in (
        (_users.c.email_normalized, wanted.email_prefix, None),
        # The prefix without accents, since names are compared with the address too.
        (_users.c.email_normalized, folded, None),
        (_users.c.last_name_normalized, wanted.name_prefix, LAST_NAME_ALONE),
        (_users.c.first_name_normalized, wanted.name_prefix, FIRST_NAME_ALONE),
    ):
        if prefix is None:
            continue
        matches = sa.and_(column >= prefix, column < prefix + _HIGHEST)
        branch = sa.select(column.label("matched"), _users.c.id).where(*_conditions(wanted), matches)
        branch = branch.where(*(sa.not_(sa.func.coalesce(other, sa.false())) for other in earlier))
        if alone is not None:
            branch = branch.where(sa.text(alone))
        if after is not None:
            branch = branch.where(sa.tuple_(column, _users.c.id) > (after.key, after.id))
        branches.append(branch.order_by(column, _users.c.id).limit(limit).subquery().select())
        earlier.append(matches)
    found = sa.union_all(*branches).subquery("found")
    return (
        sa.select(_users, found.c.matched)
        .join(found, found.c.id == _users.c.id)
        .order_by(found.c.matched, _users.c.id)
        .limit(limit)
    )
