"""The tables of users' integrations, connect attempts, tokens to be revoked, and providers' health."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.enums import (
    FlowStatus,
    IntegrationStatus,
    ProviderState,
    RevocationState,
    TokenKind,
)
from services.user_management.models.base import JSONB, Bytes, Identifier, PgUUID, foreign_key, index, one_of, table


class Integration(ormar.Model):
    """One account at one provider, connected by one user. The row also holds the lease of a refresh (the right of one
    process, until a time, to refresh the tokens) and its fence, `token_version`."""

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
        # Includes all columns that the walk over due refreshes reads, so that most of its pages need no table row.
        sa.Index(
            "ix_integrations_refresh_due",
            "refresh_due_at",
            "id",
            postgresql_include=[
                "user_id",
                "token_version",
                "refresh_issued_at",
                "refresh_lease_until",
                "refresh_not_before",
            ],
            postgresql_where=sa.text("refresh_due_at IS NOT NULL AND status IN ('active', 'degraded')"),
        ),
        sa.Index(
            "ix_integrations_probed",
            sa.text("last_probed_at NULLS FIRST"),
            "id",
            postgresql_where=sa.text("status IN ('active', 'degraded')"),
        ),
        index("ix_integrations_account", "provider", "provider_account_id"),
        index(
            "ix_integrations_lacking",
            "provider",
            "id",
            where="status_reason IN ('scope_upgrade', 'scope_missing')",
        ),
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
    requested_scopes: Any = JSONB(nullable=True)
    """The scopes that were asked for when the user last consented; null for integrations older than the column."""
    metadata: Any = JSONB(nullable=True)
    """The product's own notes, such as a label; text by name. Null: none."""
    token_version: int = ormar.BigInteger(nullable=False)
    """The fence: new tokens are stored only if this number is still the one that was read before the provider was
    asked. A connect, a stored refresh and a disconnect each raise it by one."""
    refresh_lease_owner: UUID | None = PgUUID(nullable=True)
    refresh_lease_until: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    refresh_attempts: int = ormar.Integer(nullable=False)
    """Refresh calls whose outcome is not known, the one under way included. If there are others, the provider may have
    replaced the refresh token without our knowledge."""
    refresh_not_before: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """The end of the cool-down after a failure: no refresh begins before it. Null or past: there is no cool-down."""
    refresh_failures: int = ormar.Integer(nullable=False)
    refresh_due_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the access token runs out, kept by a trigger on `encrypted_tokens`; null if it does not, or if there is no
    refresh token."""
    refresh_issued_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When that access token was issued, kept by the same trigger; null without a refresh token."""
    last_refresh_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_failure_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    last_failure: str | None = ormar.Text(nullable=True)
    """The provider's error code or a code of ours; never the body of an answer."""
    last_failure_detail: str | None = ormar.Text(nullable=True)
    """The provider's more detailed code beside `last_failure`, such as `invalid_rapt` or `AADSTS700082`."""
    failing_since: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the first of the present failures in a row happened; null if there are none."""
    last_checked_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the provider last accepted the access token in a check."""
    last_probed_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When a check last tried this integration, whatever it found."""
    clock_skew_seconds: int | None = ormar.Integer(nullable=True)
    """The provider's clock minus ours, as its ID token said when the account was connected."""
    connected_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    disconnected_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    version: int = ormar.Integer(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    updated_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class OAuthFlow(ormar.Model):
    """One connect attempt, in code a flow: a user starts it, the provider sends the browser back, and the same user
    confirms it, which consumes it."""

    ormar_config = table(
        "oauth_flows",
        foreign_key("user_id", "users.id"),
        one_of("status", FlowStatus),
        sa.UniqueConstraint("state_hash"),
        index("ix_oauth_flows_expires_at", "expires_at"),
        index("ix_oauth_flows_user_id", "user_id", "provider"),
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


class TokenRevocation(ormar.Model):
    """A token that is or was to be revoked at its provider. The row has no foreign key to integration or user, because
    it outlives both."""

    ormar_config = table(
        "token_revocations",
        foreign_key("key_version", "encryption_keys.version", ondelete="RESTRICT"),
        one_of("kind", TokenKind),
        one_of("state", RevocationState),
        index("ix_token_revocations_due", "next_attempt_at", where="state = 'pending'"),
        index("ix_token_revocations_integration_id", "integration_id"),
        index("ix_token_revocations_key_version", "key_version", "id"),
        foreign_key("refresh_key_version", "encryption_keys.version", ondelete="RESTRICT"),
        index(
            "ix_token_revocations_refresh_key_version",
            "refresh_key_version",
            "id",
            where="refresh_key_version IS NOT NULL",
        ),
        index("ix_token_revocations_user_id", "user_id", where="state = 'pending'"),
    )

    id: UUID = PgUUID(primary_key=True)
    integration_id: UUID = PgUUID(nullable=False)
    user_id: str = Identifier(nullable=False)
    provider: str = Identifier(nullable=False)
    provider_account_id: str = Identifier(nullable=False)
    kind: str = ormar.Text(nullable=False)
    ciphertext: bytes | None = Bytes(max_length=1_000_000, nullable=True)
    """The encrypted token, bound to its user, integration and kind like the integration's own; null once the revocation
    is finished."""
    key_version: int | None = ormar.Integer(nullable=True)
    expires_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the access token expires, since a provider that revokes access tokens accepts no expired one; null for an
    access token that does not expire, and for a refresh token."""
    refresh_ciphertext: bytes | None = Bytes(max_length=1_000_000, nullable=True)
    """The encrypted refresh token that gets a new access token to revoke once the stored one has expired; null if there
    is none."""
    refresh_key_version: int | None = ormar.Integer(nullable=True)
    state: str = ormar.Text(nullable=False)
    attempts: int = ormar.Integer(nullable=False)
    next_attempt_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    lease_until: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """The end of the lease: until then the revocation is left to the process that has begun it. Null: nobody has."""
    last_failure: str | None = ormar.Text(nullable=True)
    requested_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    finished_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)


class ProviderHealth(ormar.Model):
    """How a provider answers, as the periodic check last saw it."""

    ormar_config = table("provider_health", one_of("state", ProviderState))

    provider: str = Identifier(primary_key=True)
    state: str = ormar.Text(nullable=False)
    reason: str | None = ormar.Text(nullable=True)
    since: datetime = ormar.DateTime(timezone=True, nullable=False)
    checked_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    enforced_scopes: Any = JSONB(nullable=True)
    """The required scopes against which all integrations were last checked."""
    scopes_required_at: Any = JSONB(nullable=True)
    """For each scope, when a process last required it; scopes that were required within the last hour are in force."""
