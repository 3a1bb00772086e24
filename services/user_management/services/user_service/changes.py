"""Steps (parts of a transaction) that lock and write a user's row, audit each changed field with its old and new value,
and publish events with the names of the changed fields."""

from dataclasses import fields, replace
from datetime import datetime
from typing import Any, Final, cast

from services.user_management.enums import EventType, UpstreamStatus, UserStatus
from services.user_management.exceptions import UserNotFoundError
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import UserColumns, UserRow
from services.user_management.schemas.events import UserDeactivated, UserDeleted, UserEvent, UserSuspended, UserUpdated
from services.user_management.unit_of_work import UnitOfWork
from services.user_management.utils.validators import search_key

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
"""Search keys, what upstream (the identity provider) reported, and the time of the change. A change of these columns
alone is neither audited nor published."""
_SUSPENSION: Final = {"status", "suspended_at", "suspended_reason"}
_ENTERED: Final[dict[str, type[UserEvent]]] = {
    UserStatus.SUSPENDED: UserSuspended,
    UserStatus.DEACTIVATED: UserDeactivated,
}


async def lock_user(uow: UnitOfWork, user_id: str) -> UserRow:
    """Step: lock and return the row of a user, deleted or not. Raises UserNotFoundError."""
    row = await user_queries.lock_user(uow.connection, user_id)
    if row is None:
        raise UserNotFoundError
    return row


async def lock_live_user(uow: UnitOfWork, user_id: str) -> UserRow:
    """Step: lock and return the row of a user who is not deleted. Raises UserNotFoundError."""
    row = await lock_user(uow, user_id)
    if row.deleted_at is not None:
        raise UserNotFoundError
    return row


def effective_status(row: UserRow) -> UserStatus:
    """Return the status that follows from the row: the stricter one of what was decided here (deletion, suspension) and
    what upstream, the identity provider, says. If neither restricts the user, the status `pending_verification` stays,
    and any other becomes `active`."""
    if row.deleted_at is not None or row.upstream_status == UpstreamStatus.DEACTIVATED:
        return UserStatus.DEACTIVATED
    if row.suspended_at is not None or row.upstream_status == UpstreamStatus.SUSPENDED:
        return UserStatus.SUSPENDED
    pending = row.status == UserStatus.PENDING_VERIFICATION
    return UserStatus.PENDING_VERIFICATION if pending else UserStatus.ACTIVE


async def write_changes(uow: UnitOfWork, row: UserRow, values: UserColumns) -> UserRow:
    """Step: write those of `values` that differ from the locked `row`, with their search keys and the status that
    follows from them; return the new row.

    The version increases, and the change is audited and published, only if a column outside _BOOKKEEPING changes.
    Changes of a deleted user are audited but not published."""
    after = replace(row, **with_search_keys(values))
    after = replace(after, status=effective_status(after).value)
    changes = differences(row, after)
    if not changes:
        return row
    shown = {name: changes[name] for name in sorted(changes.keys() - _BOOKKEEPING)}
    if shown:
        after = replace(after, version=row.version + 1, updated_at=uow.clock.now())
    await write_differences(uow, row, after)
    if shown:
        _tell(uow, row, shown)
    return after


def differences(row: UserRow, after: UserRow) -> dict[str, list[Any]]:
    """Return [old, new] of each column in which the two rows differ."""
    pairs = {field.name: [getattr(row, field.name), getattr(after, field.name)] for field in fields(UserRow)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


async def write_differences(uow: UnitOfWork, row: UserRow, after: UserRow) -> None:
    """Step: write the columns in which `after` differs from the locked `row`."""
    new = {name: value for name, (_, value) in differences(row, after).items()}
    await user_queries.update_user(uow.connection, row.id, cast("UserColumns", new))


def _tell(uow: UnitOfWork, row: UserRow, changes: dict[str, list[Any]]) -> None:
    """Step: audit `changes`, which map each column to [old, new], and publish events unless the user is deleted: one if
    the user has become suspended or deactivated, one with the names of the other columns except `local_fields`, if
    any."""
    user_id = row.id
    entered = _ENTERED.get(changes["status"][1]) if "status" in changes else None
    visible = {name: [_json(old), _json(new)] for name, (old, new) in changes.items()}
    action = (entered or UserUpdated).event_type.value
    uow.audit(action, target=("user", user_id), user_id=user_id, changes=visible)
    if row.deleted_at is not None:
        return
    if entered is not None:
        uow.publish(entered(user_id=user_id))
    told = sorted(changes.keys() - {"local_fields"} - (_SUSPENSION if entered else set()))
    if told:
        uow.publish(UserUpdated(user_id=user_id, changed=told))


async def mark_deleted(uow: UnitOfWork, row: UserRow, *, by: str) -> datetime:
    """Step: mark a user, whose row is locked and not deleted, as deleted; audit and publish that, and return the time.

    `by` is "user", "admin" or "upstream". From the commit on nobody can read the user's tokens.
    """
    now = uow.clock.now()
    values: UserColumns = {
        "deleted_at": now,
        "deleted_by": by,
        "status": UserStatus.DEACTIVATED.value,
        "version": row.version + 1,
        "updated_at": now,
    }
    await user_queries.update_user(uow.connection, row.id, values)
    user_id = row.id
    changes = {"status": [row.status, UserStatus.DEACTIVATED.value], "deleted_by": [None, by]}
    uow.audit(EventType.USER_DELETED.value, target=("user", user_id), user_id=user_id, changes=changes)
    uow.publish(UserDeleted(user_id=user_id))
    return now


def announce_status(uow: UnitOfWork, user_id: str, change: list[str | None]) -> None:
    """Step: audit and publish that a new user is suspended or deactivated, if the status in `change` ([old, new]) is
    one of these; otherwise do nothing."""
    entered = _ENTERED.get(change[1] or "")
    if entered is not None:
        uow.audit(entered.event_type.value, target=("user", user_id), user_id=user_id, changes={"status": change})
        uow.publish(entered(user_id=user_id))


def with_search_keys(values: UserColumns) -> UserColumns:
    """Return `values` with the search keys of the first and last name added, if `values` has these names."""
    keyed = values.copy()
    if "first_name" in values:
        keyed["first_name_normalized"] = _name_key(values["first_name"])
    if "last_name" in values:
        keyed["last_name_normalized"] = _name_key(values["last_name"])
    return keyed


def _name_key(name: str | None) -> str | None:
    """Return the search key of a name, cut to 200 characters; None for no name.

    It is cut because upstream's names have no limit and can become 18 times as long in the key, while an index entry
    has at most 2704 bytes.
    """
    if not name:
        return None
    return search_key(name[:MAX_KEY_CHARACTERS])[:MAX_KEY_CHARACTERS]


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
