"""Connecting an account, and guarded changes of a connection's status."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.enums import IntegrationStatus

_LOCK_USER = sa.text("""
SELECT id FROM users WHERE id = :user_id AND deleted_at IS NULL AND status = 'active' FOR NO KEY UPDATE
""")

_CONNECT = sa.text("""
WITH former AS (
    SELECT status FROM integrations
    WHERE user_id = :user_id AND provider = :provider AND provider_account_id = :account_id
)
INSERT INTO integrations AS i
    (id, user_id, provider, provider_account_id, account_email, is_primary, status, status_reason, status_changed_at,
     granted_scopes, token_version, refresh_attempts, refresh_failures, connected_at, version, created_at, updated_at)
VALUES
    (:id, :user_id, :provider, :account_id, :account_email,
     NOT EXISTS (SELECT FROM integrations p WHERE p.user_id = :user_id AND p.provider = :provider AND p.is_primary),
     'active', NULL, now(), :scopes, 1, 0, 0, now(), 1, now(), now())
ON CONFLICT (user_id, provider, provider_account_id) DO UPDATE
SET account_email = excluded.account_email, is_primary = i.is_primary OR excluded.is_primary,
    status = 'active', status_reason = NULL, status_changed_at = now(), granted_scopes = excluded.granted_scopes,
    token_version = i.token_version + 1, refresh_lease_owner = NULL, refresh_lease_until = NULL,
    refresh_attempts = 0, refresh_failures = 0, refresh_not_before = NULL, last_failure = NULL,
    connected_at = now(), disconnected_at = NULL, version = i.version + 1, updated_at = now()
RETURNING i.id, i.token_version, (SELECT status FROM former) AS former_status
""").bindparams(sa.bindparam("scopes", type_=sa.JSON()))

_SET_STATUS = sa.text("""
UPDATE integrations
SET status = :status, status_reason = :reason, status_changed_at = now(), version = version + 1, updated_at = now(),
    refresh_lease_owner = NULL, refresh_lease_until = NULL
WHERE id = :id AND token_version = :token_version AND status = ANY(:from_statuses)
RETURNING user_id, provider
""").bindparams(sa.bindparam("from_statuses", type_=sa.ARRAY(sa.Text())))

_FORGET_REFRESH_TOKEN = sa.text("DELETE FROM encrypted_tokens WHERE integration_id = :id AND kind = 'refresh'")

_TOKEN_VERSION = sa.text("SELECT token_version FROM integrations WHERE id = :id")

_HAS_REFRESH_TOKEN = sa.text("""
SELECT EXISTS (SELECT FROM encrypted_tokens WHERE integration_id = :id AND kind = 'refresh')
""")


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection that an account now has."""

    id: UUID
    token_version: int
    former_status: str | None
    """None for a new connection."""


async def lock_active_user(connection: AsyncConnection, user_id: str) -> bool:
    """Make the user's connects queue up behind each other; False when there is no such active user."""
    return (await connection.execute(_LOCK_USER, {"user_id": user_id})).one_or_none() is not None


async def connect(
    connection: AsyncConnection,
    *,
    user_id: str,
    provider: str,
    account: tuple[str, str | None],
    scopes: tuple[str, ...],
) -> Connected:
    """Insert the connection of `account` (id, e-mail), or bring it back with a new fence. Lock the user first."""
    parameters = {
        "id": uuid7(),
        "user_id": user_id,
        "provider": provider,
        "account_id": account[0],
        "account_email": account[1],
        "scopes": list(scopes),
    }
    row = (await connection.execute(_CONNECT, parameters)).one()
    return Connected(row.id, row.token_version, row.former_status)


async def forget_refresh_token(connection: AsyncConnection, integration_id: UUID) -> None:
    """Delete a refresh token that the provider has refused, or that its user gave up."""
    await connection.execute(_FORGET_REFRESH_TOKEN, {"id": integration_id})


async def has_moved(connection: AsyncConnection, integration_id: UUID, token_version: int) -> bool:
    """Whether the connection's tokens are no longer those of `token_version`."""
    found = await connection.execute(_TOKEN_VERSION, {"id": integration_id})
    return bool(found.scalar_one_or_none() != token_version)


async def has_refresh_token(connection: AsyncConnection, integration_id: UUID) -> bool:
    """Whether a refresh token is stored."""
    return bool((await connection.execute(_HAS_REFRESH_TOKEN, {"id": integration_id})).scalar_one())


async def set_status(
    connection: AsyncConnection,
    *,
    integration_id: UUID,
    token_version: int,
    status: IntegrationStatus,
    reason: str | None,
    from_statuses: list[IntegrationStatus],
) -> tuple[str, str] | None:
    """Change the status if the fence has not moved and it still is one of `from_statuses`; else None.

    Returns (user id, provider). Releases the lease: a connection that changed its status has nothing to refresh.
    """
    parameters = {
        "id": integration_id,
        "token_version": token_version,
        "status": status.value,
        "reason": reason,
        "from_statuses": [value.value for value in from_statuses],
    }
    row = (await connection.execute(_SET_STATUS, parameters)).one_or_none()
    return None if row is None else (row.user_id, row.provider)
