"""Users: who signs in as whom, and what upstream says about them."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.user_management.core.context import act_as
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database
from services.user_management.enums import EventType, UserStatus
from services.user_management.exceptions import UnauthenticatedError, UserInactiveError, UserNotFoundError
from services.user_management.models import User
from services.user_management.queries import user as user_queries
from services.user_management.queries.user import ResolvedUser
from services.user_management.schemas.user import UserResponse
from services.user_management.security.jwt import SessionClaims
from services.user_management.security.signing import Signer
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

_UPSTREAM_ID: Final = re.compile(r"(?!usr_)[a-z]+_[A-Za-z0-9_-]{1,58}")
"""Ids that may come from upstream; `usr_` is kept for users of our own."""


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
    suspended: bool
    updated_at: datetime


def normalize_email(email: str) -> str:
    """The form that addresses are compared in: NFC and lower case. Done here, since lower() in SQL depends on the
    cluster's locale."""
    return unicodedata.normalize("NFC", email).lower()


class UserService:
    """Profiles and identities."""

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        preferences: PreferencesManager,
        signer: Signer,
        admin_user_ids: frozenset[str],
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._preferences = preferences
        self._signer = signer
        self._admin_user_ids = admin_user_ids

    async def get_user(self, user_id: str) -> UserResponse:
        """The profile of a live user. Raises UserNotFoundError."""
        user = await User.objects.get_or_none(id=user_id, deleted_at__isnull=True)
        if user is None:
            raise UserNotFoundError
        return UserResponse.model_validate(user)

    async def sign_in(self, session: SessionClaims) -> Principal:
        """The principal behind a verified session; the user is created at first sight, since a webhook may be late.

        Raises UnauthenticatedError for a subject that must not exist here, UserInactiveError for one that may not act.
        """
        user = await self._resolve(session) or await self._create_from_session(session)
        if user.deleted_at is not None or user.status != UserStatus.ACTIVE:
            raise UserInactiveError
        return Principal(
            PrincipalKind.USER,
            user.id,
            impersonator=session.impersonator,
            is_admin=user.id in self._admin_user_ids,
        )

    async def _resolve(self, session: SessionClaims) -> ResolvedUser | None:
        async with self._database.reading() as connection:
            return await user_queries.resolve_identity(connection, issuer=session.issuer, subject=session.subject)

    async def _create_from_session(self, session: SessionClaims) -> ResolvedUser:
        # Their own doing, and so it is recorded, although they are nobody's principal before it is done.
        act_as(Principal(PrincipalKind.USER, session.subject, impersonator=session.impersonator))
        async with self._unit_of_work() as uow:
            await self.create(uow, issuer=session.issuer, subject=session.subject, profile={})
        user = await self._resolve(session)
        if user is None:
            # The id belongs to another issuer's subject, or was erased: never a second door into an account.
            raise UnauthenticatedError("The session's subject is not accepted here.")
        return user

    async def create(self, uow: UnitOfWork, *, issuer: str, subject: str, profile: dict[str, Any]) -> bool:
        """Step: a new user with their identity and default preferences. False if the subject may not be created."""
        erased = await user_queries.is_erased(uow.connection, self._signer.subject_tombstone(issuer, subject))
        if erased or not _UPSTREAM_ID.fullmatch(subject):
            return False
        now = uow.clock.now()
        values = {
            "id": subject,
            "email_verified": False,
            "status": UserStatus.ACTIVE.value,
            "onboarding_completed": False,
            "local_fields": [],
            "version": 1,
            "created_at": now,
            "updated_at": now,
            **profile,
        }
        if not await user_queries.insert_user(uow.connection, values, issuer=issuer, subject=subject):
            return False
        await self._preferences.create_defaults(uow, subject)
        uow.audit("user.created", target=("user", subject), user_id=subject)
        uow.publish(EventType.USER_CREATED, subject=subject, payload={"user_id": subject})
        return True

    async def apply_upstream(self, uow: UnitOfWork, upstream: UpstreamUser) -> None:
        """Step: create or update a user from upstream. Older news than we have, and news of the deleted, is ignored."""
        profile = _profile(upstream)
        if await self.create(uow, issuer=upstream.issuer, subject=upstream.subject, profile=profile):
            return
        known = await user_queries.resolve_identity(uow.connection, issuer=upstream.issuer, subject=upstream.subject)
        row = await user_queries.lock_user(uow.connection, known.id) if known else None
        if row is None or row["deleted_at"] is not None:
            return
        if row["upstream_updated_at"] is not None and row["upstream_updated_at"] >= upstream.updated_at:
            return
        values = {field: value for field, value in profile.items() if field not in row["local_fields"]}
        if row["status"] not in {UserStatus.ACTIVE, UserStatus.SUSPENDED}:
            del values["status"]
        changes = {field: [row[field], value] for field, value in values.items() if row[field] != value}
        await user_queries.update_user(uow.connection, row["id"], values | {"updated_at": uow.clock.now()})
        changed = sorted(set(changes) - {"upstream_updated_at"})
        if changed:
            visible = {field: [_json(old), _json(new)] for field, (old, new) in changes.items() if field in changed}
            uow.audit("user.updated", target=("user", row["id"]), user_id=row["id"], changes=visible)
            payload = {"user_id": row["id"], "changed": changed}
            uow.publish(EventType.USER_UPDATED, subject=row["id"], payload=payload)

    async def delete_upstream(self, uow: UnitOfWork, *, issuer: str, subject: str) -> None:
        """Step: upstream deleted the subject. Delete wins over whatever comes later, and over what came before."""
        await self.create(uow, issuer=issuer, subject=subject, profile={})
        known = await user_queries.resolve_identity(uow.connection, issuer=issuer, subject=subject)
        row = await user_queries.lock_user(uow.connection, known.id) if known else None
        if row is None or row["deleted_at"] is not None:
            return
        now = uow.clock.now()
        values = {
            "deleted_at": now,
            "deleted_by": "upstream",
            "status": UserStatus.DEACTIVATED.value,
            "updated_at": now,
        }
        await user_queries.update_user(uow.connection, row["id"], values)
        uow.audit("user.deleted", target=("user", row["id"]), user_id=row["id"])
        uow.publish(EventType.USER_DELETED, subject=row["id"], payload={"user_id": row["id"]})


def _profile(upstream: UpstreamUser) -> dict[str, Any]:
    """Columns that upstream owns unless they were edited here."""
    return {
        "email": upstream.email,
        "email_normalized": normalize_email(upstream.email) if upstream.email else None,
        "email_verified": upstream.email_verified,
        "first_name": upstream.first_name,
        "last_name": upstream.last_name,
        "profile_image_url": upstream.profile_image_url,
        "phone": upstream.phone,
        "status": (UserStatus.SUSPENDED if upstream.suspended else UserStatus.ACTIVE).value,
        "upstream_updated_at": upstream.updated_at,
    }


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
