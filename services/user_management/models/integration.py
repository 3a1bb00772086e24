"""Connections of users to providers, and the attempts to make one."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.enums import FlowStatus, IntegrationStatus
from services.user_management.models.base import JSONB, Bytes, Identifier, PgUUID, foreign_key, index, one_of, table


class Integration(ormar.Model):
    """One account at one provider, connected by one user. The refresh lease and fence live on this row."""

    ormar_config = table(
        "integrations",
        foreign_key("user_id", "users.id"),
        one_of("status", IntegrationStatus),
        sa.UniqueConstraint("user_id", "provider", "provider_account_id"),
        index(
            "uq_integrations_primary",
            "user_id",
            "provider",
            unique=True,
            where="is_primary",
        ),
        index("ix_integrations_unsettled", "id", where="refresh_attempts > 0"),
    )

    id: UUID = PgUUID(primary_key=True)
    user_id: str = Identifier(nullable=False)
    provider: str = Identifier(nullable=False)
    provider_account_id: str = Identifier(nullable=False)
    account_email: str | None = ormar.Text(nullable=True)
    is_primary: bool = ormar.Boolean(nullable=False)
    status: str = ormar.Text(nullable=False)
    status_reason: str | None = ormar.Text(nullable=True)
    status_changed_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    granted_scopes: Any = JSONB(nullable=False)
    token_version: int = ormar.BigInteger(nullable=False)
    """Fence: every stored answer of the provider raises it by one."""
    refresh_lease_owner: UUID | None = PgUUID(nullable=True)
    refresh_lease_until: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    refresh_attempts: int = ormar.Integer(nullable=False)
    """Calls sent to the provider since the last one whose outcome is known; 2 or more: the grant may have rotated."""
    refresh_not_before: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """Cool-down after a transient failure."""
    refresh_failures: int = ormar.Integer(nullable=False)
    last_refresh_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_failure_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_failure: str | None = ormar.Text(nullable=True)
    """Error code of the provider, or the kind of failure; never its body."""
    connected_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    disconnected_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    version: int = ormar.Integer(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    updated_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class OAuthFlow(ormar.Model):
    """One connect attempt: started by a user, returned to by the provider, consumed by the same user."""

    ormar_config = table(
        "oauth_flows",
        foreign_key("user_id", "users.id"),
        one_of("status", FlowStatus),
        sa.UniqueConstraint("state_hash"),
        index("ix_oauth_flows_expires_at", "expires_at"),
    )

    id: UUID = PgUUID(primary_key=True)
    user_id: str = Identifier(nullable=False)
    provider: str = Identifier(nullable=False)
    state_hash: bytes = Bytes(max_length=32, nullable=False)
    status: str = ormar.Text(nullable=False)
    requested_scopes: Any = JSONB(nullable=False)
    redirect_uri: str = ormar.Text(nullable=False)
    return_url: str = ormar.Text(nullable=False)
    code_ciphertext: bytes | None = Bytes(max_length=16384, nullable=True)
    code_key_version: int | None = ormar.Integer(nullable=True)
    error: str | None = ormar.Text(nullable=True)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    expires_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    consumed_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
