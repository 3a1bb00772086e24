"""A user's profile, as the user, other services and administrators see it, and the requests that change users."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from services.user_management.core.clock import milliseconds
from services.user_management.core.pagination import Page
from services.user_management.schemas.integration import DisconnectResponse
from services.user_management.utils.validators import HttpUrl, PersonName, PlainLine

USER_ID_PATTERN: Final = r"^[\x21-\x7e]{1,64}$"
"""A pattern that all our user ids match, and other texts too. It excludes NUL, which cannot be sent to Postgres."""


class UserResponse(BaseModel):
    """The profile as it is shown to the user, and to services that may read it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    email: str | None
    email_verified: bool
    first_name: str | None
    last_name: str | None
    profile_image_url: str | None
    phone: str | None
    status: str
    onboarding_completed: bool
    onboarding_step: str | None
    last_login_at: datetime | None
    last_active_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int = Field(exclude=True)

    @property
    def etag(self) -> str:
        """Return the entity tag (RFC 9110 section 8.8.3): the version, which `If-Match` is compared with, and the times
        that change without a new version, so that `If-None-Match` never matches an outdated representation."""
        return f'"{self.version}-{milliseconds(self.last_login_at):x}-{milliseconds(self.last_active_at):x}"'


class UserUpdate(BaseModel):
    """A merge patch (RFC 7396) of the profile. Members that are left out stay. Null removes a value; a name or image is
    then taken from the identity provider again. E-mail and phone can only be changed at the identity provider; here
    they are refused with 409."""

    model_config = ConfigDict(extra="forbid")

    first_name: PersonName | None = None
    last_name: PersonName | None = None
    profile_image_url: HttpUrl | None = None
    onboarding_completed: StrictBool | None = None
    onboarding_step: Annotated[str, PlainLine(64)] | None = None
    email: Any = Field(default=None, json_schema_extra={"deprecated": True})
    phone: Any = Field(default=None, json_schema_extra={"deprecated": True})


class AdminUserResponse(UserResponse):
    """The profile with the members that only administrators see."""

    suspended_at: datetime | None
    """When the user was suspended here; a ban by the identity provider shows in `upstream_status`."""
    suspended_reason: str | None
    upstream_status: str | None
    upstream_updated_at: datetime | None
    local_fields: list[str]
    """Fields that were edited here, which the identity provider no longer overwrites."""
    deleted_at: datetime | None
    deleted_by: str | None
    restored_at: datetime | None


class AdminUserDetail(AdminUserResponse):
    """One user as administrators see them, with the number of recent sign-ins."""

    sign_ins_last_30_days: int


class EndedAccess(BaseModel):
    """The access that a deletion has ended. `all`: every session and every service's reading of tokens, until an
    administrator restores the user."""

    sessions: Literal["all"] = "all"
    """No session of the user is accepted."""
    token_reads: Literal["all"] = "all"  # noqa: S105 - not a secret
    """No service is given a token of the user."""
    integrations: list[DisconnectResponse]
    """Integrations that this request has disconnected. Empty if an administrator deleted the user: the integrations are
    then kept in case the user is restored. Meanwhile no service can read their tokens, which are revoked when the user
    is erased."""


class DeletionResponse(BaseModel):
    """The deletion of a user, by this request or an earlier one."""

    deleted_at: datetime
    restorable_until: datetime
    """Until when an administrator can restore the user; after that the user is erased."""
    ended: EndedAccess


class SuspendRequest(BaseModel):
    """The reason for a suspension, for the audit and for administrators; the user does not see it."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, PlainLine(200)] | None = None


class UserBatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_ids: list[Annotated[str, Field(pattern=USER_ID_PATTERN)]] = Field(min_length=1, max_length=100)


class UserBatch(BaseModel):
    """The profiles of users who are not deleted; `missing` are the ids that belong to no user or to a deleted one."""

    users: list[UserResponse]
    missing: list[str]


UserPage = Page[UserResponse]
AdminUserPage = Page[AdminUserResponse]
