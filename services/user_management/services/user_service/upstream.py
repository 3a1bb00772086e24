"""Applies what upstream (the identity provider) says about users and their sign-ins. The same descriptions lead to the
same state, in whatever order and however often they arrive.

Descriptions of a user are ordered by (time of the user object, time of the event, digest of the content), and the
newest is kept. A deletion is final: only an administrator undoes it, and never a later event. Profiles of deleted users
are kept up to date like all others, so that an order in which the deletion comes first ends in the same state.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, cast

from services.user_management.enums import EventType, UpstreamStatus, UserStatus
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import UpstreamState, UserColumns, UserRow
from services.user_management.schemas.events import UserCreated
from services.user_management.security.signing import Signer
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.user_service.changes import (
    announce_status,
    mark_deleted,
    with_search_keys,
    write_changes,
)
from services.user_management.unit_of_work import UnitOfWork
from services.user_management.utils.validators import normalize_email

SIGN_IN_PRUNING: Final = Pruning(timedelta(days=90), user_queries.prune_sign_ins)
_UPSTREAM_ID: Final = re.compile(r"(?!usr_)[a-z]+_[A-Za-z0-9_-]{1,58}")
"""Ids that users from upstream may have. The prefix `usr_` is reserved for users who are created here."""
_INITIAL_STATUS: Final[dict[str | None, UserStatus]] = {
    UpstreamStatus.SUSPENDED: UserStatus.SUSPENDED,
    UpstreamStatus.DEACTIVATED: UserStatus.DEACTIVATED,
}
EDITABLE_HERE: Final[tuple[Literal["first_name", "last_name", "profile_image_url"], ...]] = (
    "first_name",
    "last_name",
    "profile_image_url",
)
"""Fields that upstream describes and that can be edited here. A field that was edited is no longer taken from
upstream."""


@dataclass(frozen=True, slots=True)
class UpstreamUser:
    """A user as an identity provider describes them."""

    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    first_name: str | None
    last_name: str | None
    profile_image_url: str | None
    phone: str | None
    status: UpstreamStatus
    updated_at: datetime
    """When upstream last changed the user."""
    told_at: datetime
    """When upstream described the user so: the time of its event, or of our request."""

    def columns(self) -> UserColumns:
        """Return the columns of a user's row that this description sets."""
        return {
            "email": self.email,
            "email_normalized": normalize_email(self.email) if self.email else None,
            "email_verified": self.email_verified,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "profile_image_url": self.profile_image_url,
            "phone": self.phone,
            "upstream_profile": {name: getattr(self, name) for name in EDITABLE_HERE},
            "upstream_status": self.status.value,
            "upstream_updated_at": self.updated_at,
            "upstream_event_at": self.told_at,
            "upstream_digest": self.digest(),
        }

    def digest(self) -> bytes:
        """Return the SHA-256 of the content without its times; this orders two descriptions of the same moment."""
        content = [self.email, self.email_verified, self.phone, self.status]
        content += [getattr(self, name) for name in EDITABLE_HERE]
        return hashlib.sha256(json.dumps(content).encode()).digest()

    def is_newer_than(self, row: UserRow | UpstreamState) -> bool:
        """Tell whether this description is newer than the one that the row holds, if it holds any."""
        if row.upstream_updated_at is None:
            return True
        if row.upstream_event_at is None:
            # The row is from before the two other parts of the order were stored: at the same moment, this is newer.
            return bool(self.updated_at >= row.upstream_updated_at)
        known = (row.upstream_updated_at, row.upstream_event_at, row.upstream_digest)
        return (self.updated_at, self.told_at, self.digest()) > known


@dataclass(kw_only=True, eq=False)
class UpstreamUsers:
    """Steps that create, update and delete users and record their sign-ins, within the transaction of a webhook, a
    reconciliation or a first sign-in."""

    preferences: PreferencesManager
    signer: Signer

    async def create(self, uow: UnitOfWork, *, issuer: str, subject: str, profile: UserColumns | None = None) -> bool:
        """Step: create a user with their identity, `profile` and default preferences; audit and publish that.

        Returns False, and creates nothing, if the subject was erased, is no acceptable id, or exists already.
        """
        if not _UPSTREAM_ID.fullmatch(subject) or await self.is_erased(uow, issuer, subject):
            return False
        now = uow.clock.now()
        described: UserColumns = profile or {}
        status = _INITIAL_STATUS.get(described.get("upstream_status"), UserStatus.ACTIVE).value
        values: UserColumns = {
            "id": subject,
            "email_verified": False,
            "onboarding_completed": False,
            "local_fields": [],
            "version": 1,
            "created_at": now,
            "updated_at": now,
            **with_search_keys(described),
            "status": status,
        }
        if not await user_queries.insert_user(uow.connection, values, issuer=issuer, subject=subject):
            return False
        await self.preferences.create_defaults(uow, subject)
        uow.audit(EventType.USER_CREATED.value, target=("user", subject), user_id=subject)
        uow.publish(UserCreated(user_id=subject))
        announce_status(uow, subject, [None, status])
        return True

    async def is_erased(self, uow: UnitOfWork, issuer: str, subject: str) -> bool:
        """Step: look up whether the subject was erased; if so, it must not be created again."""
        return await user_queries.is_erased(uow.connection, self.signer.subject_tombstones(issuer, subject))

    async def apply(self, uow: UnitOfWork, upstream: UpstreamUser) -> bool:
        """Step: create or update a user as upstream describes them, except for the fields that were edited here.

        Returns False, and changes nothing, if the row holds this description or a newer one, or if the user must not
        exist here (erased, or an id that is taken or not acceptable)."""
        profile = upstream.columns()
        row = await user_queries.lock_identity(uow.connection, issuer=upstream.issuer, subject=upstream.subject)
        if row is None:
            if await self.create(uow, issuer=upstream.issuer, subject=upstream.subject, profile=profile):
                return True
            # Another transaction, for which the insert waited, has just created the user; or the user must not exist.
            row = await user_queries.lock_identity(uow.connection, issuer=upstream.issuer, subject=upstream.subject)
        if row is None or not upstream.is_newer_than(row):
            return False
        ours = set(row.local_fields)
        news = {name: value for name, value in profile.items() if name not in ours}
        await write_changes(uow, row, cast("UserColumns", news))
        return True

    async def delete(self, uow: UnitOfWork, *, issuer: str, subject: str, told_at: datetime) -> bool:
        """Step: mark as deleted the user whom upstream has deleted; return whether that changed anything.

        A subject that is not known here yet is first created, so that a later event finds a deleted user. `told_at` is
        when upstream reported the deletion: a user whom an administrator has restored since then is not deleted.
        """
        row = await self._locked(uow, issuer, subject)
        if row is None or row.deleted_at is not None:
            return False
        if row.restored_at is not None and told_at <= row.restored_at:
            return False
        await mark_deleted(uow, row, by="upstream")
        return True

    async def record_sign_in(
        self, uow: UnitOfWork, *, issuer: str, subject: str, session_id: str, started_at: datetime
    ) -> bool:
        """Step: record that a session began, and create its user if they are new; return False when the user must not
        exist here.

        Each session counts once. The last sign-in is that of the session that began last, in whatever order sessions
        are reported."""
        row = await self._locked(uow, issuer, subject)
        if row is None:
            return False
        await user_queries.record_sign_in(
            uow.connection, user_id=row.id, issuer=issuer, session_id=session_id, started_at=started_at
        )
        return True

    async def _locked(self, uow: UnitOfWork, issuer: str, subject: str) -> UserRow | None:
        """Step: lock and return the subject's row, which is created if there is none; None for a subject that must not
        exist."""
        row = await user_queries.lock_identity(uow.connection, issuer=issuer, subject=subject)
        if row is not None:
            return row
        await self.create(uow, issuer=issuer, subject=subject)
        return await user_queries.lock_identity(uow.connection, issuer=issuer, subject=subject)
