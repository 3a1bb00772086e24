"""Types of a user's row, whole or in part: as statements return it, and the columns that are written."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from services.user_management.core.json_types import JSONObject


@dataclass(frozen=True, slots=True)
class ResolvedUser:
    """The user who signs in with an identity (an issuer and its subject)."""

    id: str
    status: str
    deleted_at: datetime | None
    last_active_at: datetime | None


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile as its owner sees it, with the fields in the order in which `queries.user.PROFILE` selects them."""

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
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class UserRow:
    """All columns of `users`; `models/user.py` says what they mean."""

    id: str
    email: str | None
    email_normalized: str | None
    email_verified: bool
    first_name: str | None
    first_name_normalized: str | None
    last_name: str | None
    last_name_normalized: str | None
    profile_image_url: str | None
    phone: str | None
    status: str
    suspended_at: datetime | None
    suspended_reason: str | None
    onboarding_completed: bool
    onboarding_step: str | None
    last_login_at: datetime | None
    last_active_at: datetime | None
    local_fields: list[str]
    upstream_profile: JSONObject | None
    upstream_status: str | None
    upstream_updated_at: datetime | None
    upstream_event_at: datetime | None
    upstream_digest: bytes | None
    deleted_at: datetime | None
    deleted_by: str | None
    restored_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """The columns that say which description from upstream, the identity provider, a user's row holds: the
    description's times and its digest, and when the user was restored."""

    subject: str
    restored_at: datetime | None
    upstream_updated_at: datetime | None
    upstream_event_at: datetime | None
    upstream_digest: bytes | None


class UserColumns(TypedDict, total=False):
    """Columns of `users` to be written; those that are left out stay as they are."""

    id: str
    email: str | None
    email_normalized: str | None
    email_verified: bool
    first_name: str | None
    first_name_normalized: str | None
    last_name: str | None
    last_name_normalized: str | None
    profile_image_url: str | None
    phone: str | None
    status: str
    suspended_at: datetime | None
    suspended_reason: str | None
    onboarding_completed: bool
    onboarding_step: str | None
    last_login_at: datetime | None
    last_active_at: datetime | None
    local_fields: list[str]
    upstream_profile: JSONObject | None
    upstream_status: str | None
    upstream_updated_at: datetime | None
    upstream_event_at: datetime | None
    upstream_digest: bytes | None
    deleted_at: datetime | None
    deleted_by: str | None
    restored_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime
