"""The use cases in which administrators find and change users. Services that are not administrators may search for
users and read profiles by id, if they have the permission for it."""

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Final

from services.user_management.core.pagination import Page
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.enums import EventType, UpstreamStatus
from services.user_management.exceptions import ConflictError, UserNotFoundError
from services.user_management.queries import user as user_queries
from services.user_management.queries import user_search
from services.user_management.queries.user_search import FoundUser, Position, UserFilter
from services.user_management.schemas.events import UserRestored
from services.user_management.schemas.user import (
    AdminUserDetail,
    AdminUserResponse,
    DeletionResponse,
    EndedAccess,
    UserBatch,
    UserResponse,
)
from services.user_management.security.signing import Signer
from services.user_management.services.user_service.changes import (
    effective_status,
    lock_live_user,
    lock_user,
    mark_deleted,
    write_changes,
    write_differences,
)
from services.user_management.services.user_service.states import UserStates
from services.user_management.unit_of_work import UnitOfWorkFactory

SIGN_IN_WINDOW: Final = timedelta(days=30)


@dataclass(kw_only=True, eq=False)
class UserAdministration:
    """Finds, suspends, deletes and restores users."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    states: UserStates
    signer: Signer
    hold_back: timedelta

    async def list_users(
        self, _actor: Principal, wanted: UserFilter, *, limit: int, cursor: str | None
    ) -> Page[AdminUserResponse]:
        """List a page of the users that match `wanted`, with what administrators see of them.

        Raises ValidationFailedError for a cursor that was not made for this list.
        """
        page, next_cursor = await self._page(wanted, limit, cursor)
        return Page(items=[AdminUserResponse.model_validate(found.user) for found in page], next_cursor=next_cursor)

    async def search_users(
        self, _actor: Principal, wanted: UserFilter, *, limit: int, cursor: str | None
    ) -> Page[UserResponse]:
        """List a page of the users that match `wanted`, as profiles. Raises ValidationFailedError for a cursor that was
        not made for this list."""
        page, next_cursor = await self._page(wanted, limit, cursor)
        return Page(items=[UserResponse.model_validate(found.user) for found in page], next_cursor=next_cursor)

    async def _page(self, wanted: UserFilter, limit: int, cursor: str | None) -> tuple[list[FoundUser], str | None]:
        # A cursor is good for the list that it came from, and for no other.
        scope = f"users:{hashlib.sha256(repr(wanted).encode()).hexdigest()}"
        after = Position.decode(self.signer.decode_cursor(scope, cursor)) if cursor else None
        async with self.database.reading() as connection:
            found = await user_search.find_users(connection, wanted, after=after, limit=limit + 1)
        if len(found) <= limit:
            return found, None
        last = Position.of(wanted, found[limit - 1])
        return found[:limit], self.signer.encode_cursor(scope, last.encode())

    async def get_user(self, _actor: Principal, user_id: str) -> AdminUserDetail:
        """Return a user, deleted or not, with their sign-ins of the last 30 days. Raises UserNotFoundError."""
        async with self.database.reading() as connection:
            row = await user_queries.read_user(connection, user_id)
            if row is None:
                raise UserNotFoundError
            sign_ins = await user_queries.count_sign_ins(connection, user_id, window=SIGN_IN_WINDOW)
        return AdminUserDetail.model_validate(asdict(row) | {"sign_ins_last_30_days": sign_ins})

    async def batch_get(self, _actor: Principal, user_ids: list[str]) -> UserBatch:
        """Return the users with these ids who are not deleted, each once, in the order of the ids, and as `missing` the
        ids for which there is no such user."""
        wanted = list(dict.fromkeys(user_ids))
        async with self.database.reading() as connection:
            rows = {row.id: row for row in await user_queries.read_users(connection, wanted)}
        found = [UserResponse.model_validate(rows[user_id]) for user_id in wanted if user_id in rows]
        return UserBatch(users=found, missing=[user_id for user_id in wanted if user_id not in rows])

    async def suspend_user(self, actor: Principal, user_id: str, *, reason: str | None) -> AdminUserResponse:
        """Suspend the user and return them. This process refuses the user from now on, other processes within two
        seconds. If they have been suspended here before (a ban by the identity provider does not count), nothing
        changes, not even the reason. Raises UserNotFoundError, also for a deleted user."""
        async with self.unit_of_work(actor) as uow:
            row = await lock_live_user(uow, user_id)
            if row.suspended_at is None:
                row = await write_changes(uow, row, {"suspended_at": uow.clock.now(), "suspended_reason": reason})
        self.states.forget()
        return AdminUserResponse.model_validate(row)

    async def unsuspend_user(self, actor: Principal, user_id: str) -> AdminUserResponse:
        """End the suspension that was made here, if there is one, and return the user. Raises UserNotFoundError, also
        for a deleted user, and ConflictError while the identity provider bans or locks the user."""
        async with self.unit_of_work(actor) as uow:
            row = await lock_live_user(uow, user_id)
            if row.upstream_status == UpstreamStatus.SUSPENDED:
                raise ConflictError("The identity provider has banned or locked this user; lift it there.")
            row = await write_changes(uow, row, {"suspended_at": None, "suspended_reason": None})
        self.states.forget()
        return AdminUserResponse.model_validate(row)

    async def delete_user(self, actor: Principal, user_id: str) -> DeletionResponse:
        """Mark a user as deleted. They can be restored until the hold-back (the days between deletion and erasure)
        ends, so their integrations are kept.

        If the user is deleted already, nothing changes. Raises UserNotFoundError.
        """
        async with self.unit_of_work(actor) as uow:
            row = await lock_user(uow, user_id)
            deleted_at = row.deleted_at or await mark_deleted(uow, row, by="admin")
        self.states.forget()
        return DeletionResponse(
            deleted_at=deleted_at,
            restorable_until=deleted_at + self.hold_back,
            ended=EndedAccess(integrations=[]),
        )

    async def restore_user(self, actor: Principal, user_id: str) -> AdminUserResponse:
        """Undo a deletion, whoever made it, and return the user.

        Raises UserNotFoundError, also for an erased user; ConflictError if the user is not deleted or the hold-back is
        over."""
        async with self.unit_of_work(actor) as uow:
            row = await lock_user(uow, user_id)
            if row.deleted_at is None:
                raise ConflictError("The user is not deleted.")
            now = uow.clock.now()
            if row.deleted_at + self.hold_back <= now:
                raise ConflictError("The hold-back is over; the account is being erased.")
            after = replace(
                row, deleted_at=None, deleted_by=None, restored_at=now, updated_at=now, version=row.version + 1
            )
            after = replace(after, status=effective_status(after).value)
            await write_differences(uow, row, after)
            changes = {"status": [row.status, after.status], "deleted_by": [row.deleted_by, None]}
            uow.audit(EventType.USER_RESTORED.value, target=("user", user_id), user_id=user_id, changes=changes)
            uow.publish(UserRestored(user_id=user_id))
        self.states.forget()
        return AdminUserResponse.model_validate(after)
