"""The tables of users' preferences: overrides of the defaults, and their history. Nothing writes the history yet."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.models.base import JSONB, Identifier, PgUUID, foreign_key, table


class UserPreferences(ormar.Model):
    """The preferences that a user changed; all others have the defaults of `schema_version`."""

    ormar_config = table("user_preferences", foreign_key("user_id", "users.id"))

    user_id: str = Identifier(primary_key=True)
    overrides: Any = JSONB(nullable=False)
    schema_version: int = ormar.Integer(nullable=False)
    version: int = ormar.Integer(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    updated_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class PreferenceRevision(ormar.Model):
    """One earlier state of a user's overrides."""

    ormar_config = table(
        "preference_revisions", foreign_key("user_id", "users.id"), sa.UniqueConstraint("user_id", "version")
    )

    id: UUID = PgUUID(primary_key=True)
    user_id: str = Identifier(nullable=False)
    version: int = ormar.Integer(nullable=False)
    schema_version: int = ormar.Integer(nullable=False)
    overrides: Any = JSONB(nullable=False)
    changed_by: str = ormar.Text(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
