"""Steps that write a user's row: what changed is audited with old and new values, and published by name."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from services.user_management.enums import EventType, UpstreamStatus, UserStatus
from services.user_management.exceptions import UserNotFoundError
from services.user_management.queries import user as user_queries
from services.user_management.unit_of_work import UnitOfWork
from services.user_management.utils.validators import search_key

Row = dict[str, Any]

MAX_KEY_CHARACTERS: Final = 200

_BOOKKEEPING: Final = frozenset(
    {
        "email_normalized",
        "first_name_normalized",
        "last_name_normalized",
        "upstream_profile",
        "upstream_status",
        "upstream_updated_at",
        "upstream_event_at",
        "upstream_digest",
        "updated_at",
    }
)
"""Columns that nobody is shown; a change of these alone is no news."""
_SUSPENSION: Final = {"status", "suspended_at", "suspended_reason"}
_ENTERED: Final[dict[str, EventType]] = {
    UserStatus.SUSPENDED: EventType.USER_SUSPENDED,
    UserStatus.DEACTIVATED: EventType.USER_DEACTIVATED,
}


async def lock_user(uow: UnitOfWork, user_id: str) -> Row:
    """Step: the row of a user, deleted or not, locked. Raises UserNotFoundError."""
    row = await user_queries.lock_user(uow.connection, user_id)
    if row is None:
        raise UserNotFoundError
    return row


async def lock_live_user(uow: UnitOfWork, user_id: str) -> Row:
    """Step: the row of a user who is not deleted, locked. Raises UserNotFoundError."""
    row = await lock_user(uow, user_id)
    if row["deleted_at"] is not None:
        raise UserNotFoundError
    return row


def effective_status(row: Mapping[str, Any]) -> UserStatus:
    """What a user may do, from what was decided here and what upstream says; whichever is stricter."""
    if row["deleted_at"] is not None or row["upstream_status"] == UpstreamStatus.DEACTIVATED:
        return UserStatus.DEACTIVATED
    if row["suspended_at"] is not None or row["upstream_status"] == UpstreamStatus.SUSPENDED:
        return UserStatus.SUSPENDED
    pending = row["status"] == UserStatus.PENDING_VERIFICATION
    return UserStatus.PENDING_VERIFICATION if pending else UserStatus.ACTIVE


async def write_changes(uow: UnitOfWork, row: Row, values: Mapping[str, Any]) -> Row:
    """Step: write those of `values` that differ from the locked `row`, and the status that follows; the new row.

    Raises the version only when something that is shown has changed. A deleted user's changes are audited, and
    told to nobody.
    """
    after = _with_search_keys({**row, **values})
    after["status"] = effective_status(after).value
    changed = {name: [row[name], value] for name, value in after.items() if row[name] != value}
    if not changed:
        return row
    shown = sorted(changed.keys() - _BOOKKEEPING)
    new = {name: value for name, (_, value) in changed.items()}
    if shown:
        new |= {"version": row["version"] + 1, "updated_at": uow.clock.now()}
    await user_queries.update_user(uow.connection, row["id"], new)
    if shown:
        _tell(uow, row, {name: changed[name] for name in shown})
    return after | new


def _tell(uow: UnitOfWork, row: Row, changes: dict[str, list[Any]]) -> None:
    """Audit the change; publish it unless the user is deleted."""
    user_id = row["id"]
    entered = _ENTERED.get(changes["status"][1]) if "status" in changes else None
    visible = {name: [_json(old), _json(new)] for name, (old, new) in changes.items()}
    action = (entered or EventType.USER_UPDATED).value
    uow.audit(action, target=("user", user_id), user_id=user_id, changes=visible)
    if row["deleted_at"] is not None:
        return
    if entered is not None:
        uow.publish(entered, subject=user_id, payload={"user_id": user_id})
    told = sorted(changes.keys() - {"local_fields"} - (_SUSPENSION if entered else set()))
    if told:
        uow.publish(EventType.USER_UPDATED, subject=user_id, payload={"user_id": user_id, "changed": told})


async def mark_deleted(uow: UnitOfWork, row: Row, *, by: str) -> datetime:
    """Step: soft delete of a locked, live user; the time of it. Their tokens are unreadable from the commit on."""
    now = uow.clock.now()
    values = {
        "deleted_at": now,
        "deleted_by": by,
        "status": UserStatus.DEACTIVATED.value,
        "version": row["version"] + 1,
        "updated_at": now,
    }
    await user_queries.update_user(uow.connection, row["id"], values)
    user_id = row["id"]
    changes = {"status": [row["status"], UserStatus.DEACTIVATED.value], "deleted_by": [None, by]}
    uow.audit(EventType.USER_DELETED.value, target=("user", user_id), user_id=user_id, changes=changes)
    uow.publish(EventType.USER_DELETED, subject=user_id, payload={"user_id": user_id})
    return now


def announce_status(uow: UnitOfWork, user_id: str, change: list[str | None]) -> None:
    """Step: audit and publish that a new user is suspended or deactivated from the start, if they are."""
    entered = _ENTERED.get(change[1] or "")
    if entered is not None:
        uow.audit(entered.value, target=("user", user_id), user_id=user_id, changes={"status": change})
        uow.publish(entered, subject=user_id, payload={"user_id": user_id})


def with_search_keys(values: Mapping[str, Any]) -> Row:
    """`values` with the search keys of the names in it."""
    return _with_search_keys(dict(values))


def _with_search_keys(values: Row) -> Row:
    for name in ("first_name", "last_name"):
        if name in values:
            values[f"{name}_normalized"] = _name_key(values[name]) if values[name] else None
    return values


def _name_key(name: str) -> str:
    """Upstream's names have no limit, and fold to up to 18 times their length; an index entry ends at 2704 bytes."""
    return search_key(name[:MAX_KEY_CHARACTERS])[:MAX_KEY_CHARACTERS]


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
