"""The tables of users, of the identities by which they sign in, of erased identities, and of sign-ins."""

from datetime import datetime
from typing import Any

import ormar
import sqlalchemy as sa

from services.user_management.enums import UpstreamStatus, UserStatus
from services.user_management.models.base import JSONB, Bytes, Identifier, index, metadata, one_of, table

_LIVE = "deleted_at IS NULL"
LAST_NAME_ALONE = "NOT starts_with(coalesce(email_normalized, ''), last_name_normalized)"
"""An SQL condition that leaves out users whose e-mail begins with their whole last name: a search for any prefix of
that name finds them by the e-mail already."""
FIRST_NAME_ALONE = (
    "NOT starts_with(coalesce(email_normalized, ''), first_name_normalized)"
    " AND NOT starts_with(coalesce(last_name_normalized, ''), first_name_normalized)"
)


class User(ormar.Model):
    """One user of the product. `id` never changes."""

    ormar_config = table(
        "users",
        sa.CheckConstraint("id ~ '^[a-z]+_[A-Za-z0-9_-]{1,58}$'", name="id"),
        one_of("status", UserStatus),
        one_of("upstream_status", UpstreamStatus),
        # The sort keys of searches for live users, each followed by the id, from which the next page goes on.
        index("ix_users_live_email", "email_normalized", "id", where=_LIVE),
        index("ix_users_live_last_name", "last_name_normalized", "id", where=f"{_LIVE} AND {LAST_NAME_ALONE}"),
        index("ix_users_live_first_name", "first_name_normalized", "id", where=f"{_LIVE} AND {FIRST_NAME_ALONE}"),
        index("ix_users_live_created_at", "created_at", "id", where=_LIVE),
        index("ix_users_live_status", "status", "created_at", "id", where=_LIVE),
        index("ix_users_deleted_at", "deleted_at", "id", where="deleted_at IS NOT NULL"),
        # The few users whose tokens are not renewed. The index is small enough to stay in memory while every due
        # refresh is looked up in it.
        index("ix_users_not_served", "id", where="deleted_at IS NOT NULL OR status <> 'active'"),
        # Users of our own sign in with their address; Clerk's may share one for a moment.
        index(
            "uq_users_own_email",
            "email_normalized",
            unique=True,
            where="deleted_at IS NULL AND starts_with(id, 'usr_')",
        ),
    )

    id: str = Identifier(primary_key=True)
    email: str | None = ormar.Text(nullable=True)
    email_normalized: str | None = Identifier(nullable=True)
    email_verified: bool = ormar.Boolean(nullable=False)
    first_name: str | None = ormar.Text(nullable=True)
    first_name_normalized: str | None = Identifier(nullable=True)
    last_name: str | None = ormar.Text(nullable=True)
    last_name_normalized: str | None = Identifier(nullable=True)
    profile_image_url: str | None = ormar.Text(nullable=True)
    phone: str | None = ormar.Text(nullable=True)
    status: str = ormar.Text(nullable=False)
    """The status that counts, derived from what was decided here (`suspended_at`, `deleted_at`) and from upstream's
    status (`upstream_status`). Upstream is the identity provider as the source of news about users."""
    suspended_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    suspended_reason: str | None = ormar.Text(nullable=True)
    onboarding_completed: bool = ormar.Boolean(nullable=False)
    onboarding_step: str | None = ormar.Text(nullable=True)
    last_login_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_active_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    local_fields: Any = JSONB(nullable=False)
    """Names of fields that were edited here, which upstream no longer overwrites."""
    upstream_profile: Any = JSONB(nullable=True)
    """The fields that can be edited here (and are then named in `local_fields`), as upstream last described them."""
    upstream_status: str | None = ormar.Text(nullable=True)
    upstream_updated_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    upstream_event_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    upstream_digest: bytes | None = Bytes(max_length=32, nullable=True)
    """SHA-256 of the user as upstream described them. With `upstream_updated_at` and `upstream_event_at` it gives
    upstream's descriptions a total order, so that every process picks the same one of two as the newer."""
    deleted_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    deleted_by: str | None = ormar.Text(nullable=True)
    restored_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    version: int = ormar.Integer(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    updated_at: datetime = ormar.DateTime(timezone=True, nullable=False)


user_identities = sa.Table(
    "user_identities",
    metadata,
    sa.Column("issuer", sa.Text(collation="C"), primary_key=True),
    sa.Column("subject", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text(collation="C"), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_user_identities_user_id", "user_id"),
)
"""The table that decides whom a session token is about: (issuer, subject) → user. It is an SQLAlchemy Core table, since
ormar knows no composite keys."""

erased_subjects = sa.Table(
    "erased_subjects",
    metadata,
    sa.Column("subject_hash", sa.LargeBinary(), primary_key=True),
    sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
)
"""Keyed hashes of erased (issuer, subject) pairs, so that a webhook that arrives late does not create the user anew."""

sign_ins = sa.Table(
    "sign_ins",
    metadata,
    sa.Column("issuer", sa.Text(collation="C"), primary_key=True),
    sa.Column("session_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("user_id", sa.Text(collation="C"), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_sign_ins_user_id_started_at", "user_id", "started_at"),
    sa.Index("ix_sign_ins_started_at", "started_at"),
)
"""Sessions that began at the issuer, each stored once, so that sign-ins are counted correctly however often and late
the issuer reports them."""
