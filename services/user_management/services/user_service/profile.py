"""The use cases of users on themselves: read and edit the profile, delete the account."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.exceptions import FieldOwnedUpstreamError, PreconditionFailedError, UserNotFoundError
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import UserColumns, UserRow
from services.user_management.schemas.integration import DisconnectResponse
from services.user_management.schemas.user import DeletionResponse, EndedAccess, UserResponse, UserUpdate
from services.user_management.services.integration_service import disconnect_all
from services.user_management.services.user_service.changes import (
    lock_live_user,
    lock_user,
    mark_deleted,
    write_changes,
)
from services.user_management.services.user_service.states import UserStates
from services.user_management.services.user_service.upstream import EDITABLE_HERE
from services.user_management.unit_of_work import UnitOfWorkFactory

UPSTREAM_ONLY: Final = ("email", "phone")

ExpectedVersions = frozenset[int] | None
"""The versions that a user's row may have for a change to be made (`If-Match`); None means that any version will do."""


@dataclass(kw_only=True, eq=False)
class ProfileService:
    """Reads, edits and deletes a user's own profile."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    states: UserStates
    providers: ProviderRegistry
    hold_back: timedelta

    async def get_user(self, _actor: Principal, user_id: str) -> UserResponse:
        """Return the profile of a user who is not deleted. Raises UserNotFoundError."""
        row = await user_queries.read_profile(self.database.door, user_id)
        if row is None:
            raise UserNotFoundError
        return UserResponse.model_validate(row)

    async def update_user(
        self, actor: Principal, user_id: str, update: UserUpdate, *, expected: ExpectedVersions
    ) -> UserResponse:
        """Apply a merge patch (RFC 7396) to the profile, and return the new profile.

        A name or image that is edited here is no longer taken from upstream (the identity provider), until it is set to
        null. Raises UserNotFoundError, PreconditionFailedError if the version is not one of `expected`, and
        FieldOwnedUpstreamError for e-mail and phone.
        """
        owned = [name for name in UPSTREAM_ONLY if name in update.model_fields_set]
        if owned:
            raise FieldOwnedUpstreamError.of_fields(owned)

        async with self.unit_of_work(actor) as uow:
            row = await lock_live_user(uow, user_id)
            _expect(row, expected)
            row = await write_changes(uow, row, _edited(row, update))
        return UserResponse.model_validate(row)

    async def delete_user(self, actor: Principal, user_id: str, *, expected: ExpectedVersions) -> DeletionResponse:
        """Mark the user's own account as deleted, disconnect all integrations and queue the revocation of their tokens
        at the providers. Token reads are refused at once, and the user's requests by every process within two seconds.

        The other data is erased when the hold-back ends, until which an administrator can restore the user. If the user
        is deleted already, nothing changes. Raises UserNotFoundError, PreconditionFailedError if the version is not one
        of `expected`."""
        ended: list[DisconnectResponse] = []
        async with self.unit_of_work(actor) as uow:
            row = await lock_user(uow, user_id)
            deleted_at = row.deleted_at
            if deleted_at is None:
                _expect(row, expected)
                ended = await disconnect_all(uow, self.providers, user_id, by="user_deleted")
                deleted_at = await mark_deleted(uow, row, by="user")
        self.states.forget()
        return DeletionResponse(
            deleted_at=deleted_at,
            restorable_until=deleted_at + self.hold_back,
            ended=EndedAccess(integrations=ended),
        )


def _expect(row: UserRow, expected: ExpectedVersions) -> None:
    if expected is not None and row.version not in expected:
        raise PreconditionFailedError


def _edited(row: UserRow, update: UserUpdate) -> UserColumns:
    """Return the columns that the patch sets. A name or image that it sets to null gets upstream's value.
    `local_fields` names those that are not taken from upstream any more."""
    values: UserColumns = {}
    local = set(row.local_fields)
    upstream = row.upstream_profile or {}
    for name in EDITABLE_HERE:
        if name not in update.model_fields_set:
            continue
        given = getattr(update, name)
        values[name] = upstream.get(name) if given is None else given
        local = local - {name} if given is None else local | {name}
    if "onboarding_completed" in update.model_fields_set:
        values["onboarding_completed"] = bool(update.onboarding_completed)
    if "onboarding_step" in update.model_fields_set:
        values["onboarding_step"] = update.onboarding_step
    values["local_fields"] = sorted(local)
    return values
