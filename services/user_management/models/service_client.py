"""The tables of sibling services, their keys and their grants."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.models.base import JSONB, Bytes, Identifier, PgUUID, foreign_key, index, table


class ServiceClient(ormar.Model):
    """A sibling service. `permissions` say what it may do besides reading tokens."""

    ormar_config = table("service_clients", sa.UniqueConstraint("name"))

    id: UUID = PgUUID(primary_key=True)
    name: str = Identifier(nullable=False)
    permissions: Any = JSONB(nullable=False)
    disabled_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class ServiceKey(ormar.Model):
    """A credential of a service, stored as the SHA-256 of its secret part."""

    ormar_config = table(
        "service_keys",
        foreign_key("client_id", "service_clients.id"),
        index("ix_service_keys_client_id", "client_id"),
    )

    id: str = Identifier(primary_key=True)
    client_id: UUID = PgUUID(nullable=False)
    secret_hash: bytes = Bytes(max_length=32, nullable=False)
    expires_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    revoked_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_used_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the key was last used, to the minute: a row written by every read would cost four fifths of the
    throughput."""
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class ServiceGrant(ormar.Model):
    """The right of a service to read tokens of one provider, for `scopes` (null: any); with `reason_required`, each
    read must give a reason."""

    ormar_config = table(
        "service_grants", foreign_key("client_id", "service_clients.id"), sa.UniqueConstraint("client_id", "provider")
    )

    id: UUID = PgUUID(primary_key=True)
    client_id: UUID = PgUUID(nullable=False)
    provider: str = Identifier(nullable=False)
    scopes: Any = JSONB(nullable=True)
    reason_required: bool = ormar.Boolean(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
