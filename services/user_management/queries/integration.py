"""Statements that connect, show, change and end integrations.

The fence of an integration is its `token_version`, which is raised by every connect, stored refresh and disconnect:
what was found out about an older version no longer applies.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.enums import IntegrationStatus
from services.user_management.queries.rows import all_rows, one_row

_LOCK_USER = sa.text("""
SELECT id FROM users WHERE id = :user_id AND deleted_at IS NULL AND status = 'active' FOR NO KEY UPDATE
""")

_LOCK_FORMER = sa.text("""
SELECT status FROM integrations
WHERE user_id = :user_id AND provider = :provider AND provider_account_id = :account_id FOR UPDATE
""")

_CONNECT = sa.text("""
INSERT INTO integrations AS i
    (id, user_id, provider, provider_account_id, account_email, is_primary, status, status_reason, status_changed_at,
     granted_scopes, requested_scopes, clock_skew_seconds, token_version, refresh_attempts, refresh_failures,
     connected_at, version, created_at, updated_at)
VALUES
    (:id, :user_id, :provider, :account_id, :account_email,
     NOT EXISTS (SELECT FROM integrations p WHERE p.user_id = :user_id AND p.provider = :provider AND p.is_primary),
     'active', NULL, now(), :granted, :requested, :clock_skew_seconds, 1, 0, 0, now(), 1, now(), now())
ON CONFLICT (user_id, provider, provider_account_id) DO UPDATE
SET account_email = excluded.account_email, is_primary = i.is_primary OR excluded.is_primary,
    status = 'active', status_reason = NULL, status_changed_at = now(), granted_scopes = excluded.granted_scopes,
    requested_scopes = excluded.requested_scopes, clock_skew_seconds = excluded.clock_skew_seconds,
    token_version = i.token_version + 1, refresh_lease_owner = NULL, refresh_lease_until = NULL,
    refresh_attempts = 0, refresh_failures = 0, refresh_not_before = NULL, failing_since = NULL,
    last_failure = NULL, last_failure_detail = NULL, last_failure_at = NULL,
    connected_at = now(), disconnected_at = NULL, version = i.version + 1, updated_at = now()
RETURNING i.id, i.token_version
""").bindparams(sa.bindparam("granted", type_=sa.JSON()), sa.bindparam("requested", type_=sa.JSON()))

_SET_STATUS = sa.text("""
UPDATE integrations
SET status = :status, status_reason = :reason, status_changed_at = now(), version = version + 1, updated_at = now(),
    last_failure = coalesce(:failure, last_failure),
    last_failure_detail = CASE WHEN CAST(:failure AS text) IS NULL THEN last_failure_detail ELSE :detail END,
    last_failure_at = CASE WHEN CAST(:failure AS text) IS NULL THEN last_failure_at ELSE now() END,
    refresh_lease_owner = NULL, refresh_lease_until = NULL
WHERE id = :id AND token_version = :token_version AND status = ANY(:from_statuses)
RETURNING user_id, provider
""").bindparams(
    sa.bindparam("from_statuses", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("failure", type_=sa.Text()),
    sa.bindparam("detail", type_=sa.Text()),
)

_FORGET_TOKENS = sa.text("DELETE FROM encrypted_tokens WHERE integration_id = :id AND kind = ANY(:kinds)").bindparams(
    sa.bindparam("kinds", type_=sa.ARRAY(sa.Text()))
)

_STATUS = sa.text("SELECT status FROM integrations WHERE id = :id")

_TOKEN_VERSION = sa.text("SELECT token_version FROM integrations WHERE id = :id")

_HAS_REFRESH_TOKEN = sa.text("""
SELECT EXISTS (SELECT FROM encrypted_tokens WHERE integration_id = :id AND kind = 'refresh')
""")

_SHOWN = """
SELECT i.id, i.user_id, i.provider, i.provider_account_id, i.account_email, i.is_primary, i.status, i.status_reason,
       i.status_changed_at, i.granted_scopes, i.requested_scopes, i.metadata, i.last_refresh_at, i.last_checked_at,
       i.last_failure_at, i.connected_at, i.token_version, i.version, access.expires_at,
       extract(epoch FROM now() - i.last_refresh_at)::float8 AS refreshed_seconds_ago,
       refresh.id IS NOT NULL AS has_refresh_token, used.read_at AS last_used_at
FROM integrations i
LEFT JOIN encrypted_tokens access ON access.integration_id = i.id AND access.kind = 'access'
LEFT JOIN encrypted_tokens refresh ON refresh.integration_id = i.id AND refresh.kind = 'refresh'
LEFT JOIN LATERAL (
    SELECT r.read_at FROM token_reads r
    WHERE r.integration_id = i.id AND r.outcome = 'granted'
    ORDER BY r.id DESC LIMIT 1
) AS used ON true
WHERE i.user_id = :user_id AND i.status <> 'disconnected'
"""
_TYPES = {"granted_scopes": sa.JSON, "requested_scopes": sa.JSON, "metadata": sa.JSON}

_LIST = sa.text(f"{_SHOWN} ORDER BY i.provider, i.is_primary DESC, i.connected_at, i.id").columns(**_TYPES)

_FIND = (
    sa.text(f"""{_SHOWN}
  AND i.provider = :provider
  AND CASE WHEN CAST(:account AS text) IS NULL THEN i.is_primary
           ELSE i.provider_account_id = :account OR lower(i.account_email) = lower(:account) END
ORDER BY (i.provider_account_id = :account) DESC NULLS LAST, i.is_primary DESC, i.id LIMIT 1
""")
    .bindparams(sa.bindparam("account", type_=sa.Text()))
    .columns(**_TYPES)
)

_SET_METADATA = sa.text("""
UPDATE integrations SET metadata = :metadata, version = version + 1, updated_at = now() WHERE id = :id
""").bindparams(sa.bindparam("metadata", type_=sa.JSON(none_as_null=True)))

_YIELD_PRIMARY = sa.text("""
UPDATE integrations SET is_primary = false, version = version + 1, updated_at = now()
WHERE user_id = :user_id AND provider = :provider AND is_primary AND id <> :id
""")

_MAKE_PRIMARY = sa.text("""
UPDATE integrations SET is_primary = true, version = version + 1, updated_at = now() WHERE id = :id AND NOT is_primary
""")

_DISCONNECT = sa.text("""
UPDATE integrations
SET status = 'disconnected', status_reason = :reason, status_changed_at = now(), disconnected_at = now(),
    is_primary = false, token_version = token_version + 1, refresh_lease_owner = NULL, refresh_lease_until = NULL,
    refresh_attempts = 0, refresh_not_before = NULL, version = version + 1, updated_at = now()
WHERE id = :id AND status <> 'disconnected'
RETURNING id
""")

_PROMOTE = sa.text("""
UPDATE integrations SET is_primary = true, version = version + 1, updated_at = now()
WHERE id = (
    SELECT id FROM integrations
    WHERE user_id = :user_id AND provider = :provider AND status <> 'disconnected'
    ORDER BY status IN ('active', 'degraded') DESC, connected_at, id LIMIT 1)
""")

_HAS_PRIMARY = sa.text("""
SELECT EXISTS (SELECT FROM integrations WHERE user_id = :user_id AND provider = :provider AND is_primary)
""")

_LIVE_OF_USER = sa.text("""
SELECT id, user_id, provider, provider_account_id, status FROM integrations
WHERE user_id = :user_id AND status <> 'disconnected' ORDER BY id FOR UPDATE
""")


@dataclass(frozen=True, slots=True)
class ShownIntegration:
    """All that is read of an integration in order to show it to its user; never a token."""

    id: UUID
    user_id: str
    provider: str
    provider_account_id: str
    account_email: str | None
    is_primary: bool
    status: str
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: list[str]
    requested_scopes: list[str] | None
    metadata: dict[str, str] | None
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure_at: datetime | None
    connected_at: datetime
    token_version: int
    version: int
    expires_at: datetime | None
    """When the access token runs out; None: it does not, or there is none."""
    refreshed_seconds_ago: float | None
    has_refresh_token: bool
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Connected:
    """The integration that `connect` has made or restored."""

    id: UUID
    token_version: int
    former_status: str | None
    """The integration's former status; None for a new one."""


@dataclass(frozen=True, slots=True)
class Consent:
    """What a user has just consented to, and with which account."""

    account_id: str
    account_email: str | None
    granted: tuple[str, ...]
    requested: tuple[str, ...]
    clock_skew_seconds: int | None


@dataclass(frozen=True, slots=True)
class LiveIntegration:
    """An integration that is not disconnected, with its row locked."""

    id: UUID
    user_id: str
    provider: str
    provider_account_id: str
    status: str


async def lock_active_user(connection: AsyncConnection, user_id: str) -> bool:
    """Lock an active user's row until the transaction ends, so that the user's connects run one after the other; False
    if there is no such user, or the user is deleted or not active."""
    return (await connection.execute(_LOCK_USER, {"user_id": user_id})).one_or_none() is not None


async def connect(connection: AsyncConnection, *, user_id: str, provider: str, consent: Consent) -> Connected:
    """Make the account's integration or, if there was one, make it active again, with a new fence and without its
    recorded failures. Lock the user first, so that no other connect of that user runs at the same time. A refresh may
    run at the same time: this waits for its transaction, and returns the status that the refresh has left as the former
    one."""
    account = {"user_id": user_id, "provider": provider, "account_id": consent.account_id}
    former_status = (await connection.execute(_LOCK_FORMER, account)).scalar_one_or_none()
    parameters = account | {
        "id": uuid7(),
        "account_email": consent.account_email,
        "granted": list(consent.granted),
        "requested": list(consent.requested),
        "clock_skew_seconds": consent.clock_skew_seconds,
    }
    row = (await connection.execute(_CONNECT, parameters)).one()
    return Connected(row.id, row.token_version, former_status)


async def list_shown(connection: AsyncConnection, user_id: str) -> list[ShownIntegration]:
    """Read the user's integrations as they are shown, without the disconnected ones, in the order of providers and, of
    one provider, the primary one first."""
    return all_rows(ShownIntegration, await connection.execute(_LIST, {"user_id": user_id}))


async def find_shown(
    connection: AsyncConnection, *, user_id: str, provider: str, account: str | None
) -> ShownIntegration | None:
    """Read one integration as it is shown, if it is not disconnected: the one of `account` (id at the provider or
    e-mail; a match by id goes first) or, if `account` is None, the primary one. None if there is none."""
    parameters = {"user_id": user_id, "provider": provider, "account": account}
    return one_row(ShownIntegration, await connection.execute(_FIND, parameters))


async def live_of_user(connection: AsyncConnection, user_id: str) -> list[LiveIntegration]:
    """List the user's integrations that are not disconnected, in the order of their ids, and lock their rows until the
    transaction ends."""
    rows = await connection.execute(_LIVE_OF_USER, {"user_id": user_id})
    return [LiveIntegration(row.id, row.user_id, row.provider, row.provider_account_id, row.status) for row in rows]


async def set_metadata(connection: AsyncConnection, integration_id: UUID, metadata: dict[str, str] | None) -> None:
    """Replace all of the product's notes about an integration; None removes them."""
    await connection.execute(_SET_METADATA, {"id": integration_id, "metadata": metadata})


async def make_primary(connection: AsyncConnection, *, user_id: str, provider: str, integration_id: UUID) -> bool:
    """Make this integration the user's primary one at its provider, the one that is meant by requests that name no
    account. False if it was the primary one already."""
    parameters = {"user_id": user_id, "provider": provider, "id": integration_id}
    await connection.execute(_YIELD_PRIMARY, parameters)
    return (await connection.execute(_MAKE_PRIMARY, {"id": integration_id})).rowcount == 1


async def disconnect(connection: AsyncConnection, held: LiveIntegration, *, reason: str) -> None:
    """End an integration whose row is locked and delete its tokens. The answer of a refresh that is under way is no
    longer stored. If the user then has no primary integration with the provider, another one becomes primary, a working
    one if there is one."""
    await connection.execute(_DISCONNECT, {"id": held.id, "reason": reason})
    await connection.execute(_FORGET_TOKENS, {"id": held.id, "kinds": ["access", "refresh"]})
    primary = {"user_id": held.user_id, "provider": held.provider}
    if not (await connection.execute(_HAS_PRIMARY, primary)).scalar_one():
        await connection.execute(_PROMOTE, primary)


async def forget_refresh_token(connection: AsyncConnection, integration_id: UUID) -> None:
    """Delete the refresh token of an integration. This is for one that no longer worked and that its user connects
    again."""
    await connection.execute(_FORGET_TOKENS, {"id": integration_id, "kinds": ["refresh"]})


async def has_ended(connection: AsyncConnection, integration_id: UUID) -> bool:
    """Tell whether the integration is disconnected, or its row is gone because its user was erased."""
    status = (await connection.execute(_STATUS, {"id": integration_id})).scalar_one_or_none()
    return status in (None, IntegrationStatus.DISCONNECTED)


async def has_moved(connection: AsyncConnection, integration_id: UUID, token_version: int) -> bool:
    """Tell whether the integration's tokens are no longer those of `token_version`, or its row is gone."""
    found = await connection.execute(_TOKEN_VERSION, {"id": integration_id})
    return bool(found.scalar_one_or_none() != token_version)


async def has_refresh_token(connection: AsyncConnection, integration_id: UUID) -> bool:
    """Tell whether a refresh token of the integration is stored."""
    return bool((await connection.execute(_HAS_REFRESH_TOKEN, {"id": integration_id})).scalar_one())


async def set_status(
    connection: AsyncConnection,
    *,
    integration_id: UUID,
    token_version: int,
    status: IntegrationStatus,
    reason: str | None,
    from_statuses: list[IntegrationStatus],
    failure: str | None = None,
    detail: str | None = None,
) -> tuple[str, str] | None:
    """Change the status and return (user id, provider); None, and no change, if the fence is no longer `token_version`
    or the present status is not one of `from_statuses`.

    `failure` and `detail` are the provider's codes, if its answer is the cause; without `failure`, the last recorded
    failure stays. The lease of a refresh is released too.
    """
    parameters = {
        "id": integration_id,
        "token_version": token_version,
        "status": status.value,
        "reason": reason,
        "from_statuses": [value.value for value in from_statuses],
        "failure": failure,
        "detail": detail,
    }
    row = (await connection.execute(_SET_STATUS, parameters)).one_or_none()
    return None if row is None else (row.user_id, row.provider)
