"""What is known about one user's connection to one provider, for whoever has to explain it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor

READS_LOOKED_AT: Final = 50
ACCOUNTS_LOOKED_AT: Final = 50
"""Connections of the same account by other users; what matters is whether there are few or many."""

_SUBJECT = (
    sa.text("""
SELECT now() AS read_at, u.status AS user_status, u.deleted_at AS user_deleted_at,
       h.state AS provider_state, h.reason AS provider_reason, h.since AS provider_since,
       h.checked_at AS provider_checked_at,
       i.id, i.provider_account_id, i.account_email, i.status, i.status_reason, i.status_changed_at, i.granted_scopes,
       i.requested_scopes, i.connected_at, i.disconnected_at, i.last_refresh_at, i.last_checked_at, i.last_failure,
       i.last_failure_detail, i.last_failure_at, i.failing_since, i.refresh_failures,
       i.refresh_not_before, i.clock_skew_seconds,
       access.ciphertext AS access_ciphertext, access.key_version AS access_key_version,
       access.issued_at AS access_issued_at, access.expires_at AS access_expires_at,
       refresh.ciphertext AS refresh_ciphertext, refresh.key_version AS refresh_key_version,
       refresh.issued_at AS refresh_issued_at
FROM users u
LEFT JOIN provider_health h ON h.provider = :provider
LEFT JOIN LATERAL (
    SELECT * FROM integrations c
    WHERE c.user_id = u.id AND c.provider = :provider
      AND (CAST(:account AS text) IS NULL OR c.provider_account_id = :account
           OR lower(c.account_email) = lower(:account))
    ORDER BY (c.provider_account_id = :account) DESC NULLS LAST, c.is_primary DESC, c.status <> 'disconnected' DESC,
             c.disconnected_at DESC, c.id
    LIMIT 1
) AS i ON true
LEFT JOIN encrypted_tokens access ON access.integration_id = i.id AND access.kind = 'access'
LEFT JOIN encrypted_tokens refresh ON refresh.integration_id = i.id AND refresh.kind = 'refresh'
WHERE u.id = :user_id
""")
    .bindparams(sa.bindparam("account", type_=sa.Text()))
    .columns(granted_scopes=sa.JSON, requested_scopes=sa.JSON)
)

_READS = sa.text("""
SELECT outcome, count(*) AS reads, max(read_at) AS last_at
FROM (
    SELECT outcome, read_at FROM token_reads
    WHERE user_id = :user_id AND provider = :provider ORDER BY id DESC LIMIT :limit
) AS latest
GROUP BY outcome
""")

_CONNECTS = sa.text("""
SELECT count(*) FROM audit_logs
WHERE user_id = :user_id AND action = 'integration.connected' AND target_id = :integration_id
""")

_SAME_ACCOUNT = sa.text("""
SELECT count(*) AS connections,
       count(*) FILTER (WHERE other.status IN ('active', 'degraded')) AS serving,
       coalesce(sum(connects.newer), 0) AS newer_connects,
       max(ended.at) AS grant_ended_at
FROM (
    SELECT id, user_id, status FROM integrations
    WHERE provider = :provider AND provider_account_id = :account_id AND id <> :integration_id LIMIT :limit
) AS other
CROSS JOIN LATERAL (
    SELECT count(*) AS newer FROM audit_logs a
    WHERE a.user_id = other.user_id AND a.id >= :since_id AND a.action = 'integration.connected'
      AND a.target_id = CAST(other.id AS text)
) AS connects
CROSS JOIN LATERAL (
    SELECT max(r.finished_at) AS at FROM token_revocations r
    WHERE r.integration_id = other.id AND r.state = 'done' AND r.finished_at >= :since
) AS ended
""")

_REVOCATIONS = sa.text("""
SELECT state, attempts, last_failure, requested_at, finished_at, next_attempt_at
FROM token_revocations WHERE integration_id = :integration_id ORDER BY requested_at DESC LIMIT 1
""")

_FLOWS = sa.text("""
SELECT status, error, created_at, expires_at, consumed_at FROM oauth_flows
WHERE user_id = :user_id AND provider = :provider AND created_at >= :since
ORDER BY created_at DESC
""")


async def read_subject(
    connection: AsyncConnection, *, user_id: str, provider: str, account: str | None
) -> dict[str, Any] | None:
    """The user, how the provider is, the connection (of `account`, else the primary one, else the one that ended last)
    and its tokens. Without a connection its columns are null; None: there is no such user."""
    parameters = {"user_id": user_id, "provider": provider, "account": account}
    row = (await connection.execute(_SUBJECT, parameters)).mappings().one_or_none()
    return None if row is None else dict(row)


async def latest_reads(connection: AsyncConnection, *, user_id: str, provider: str) -> Sequence[sa.RowMapping]:
    """Outcomes of the latest token reads: how many of each (`reads`), and when the last was (`last_at`)."""
    parameters = {"user_id": user_id, "provider": provider, "limit": READS_LOOKED_AT}
    return (await connection.execute(_READS, parameters)).mappings().all()


async def count_connects(connection: AsyncConnection, *, user_id: str, integration_id: UUID) -> int:
    """How often this account was connected by this user, as far back as the audit goes."""
    parameters = {"user_id": user_id, "integration_id": str(integration_id)}
    return int((await connection.execute(_CONNECTS, parameters)).scalar_one())


async def same_account(
    connection: AsyncConnection, *, provider: str, account_id: str, integration_id: UUID, since: datetime
) -> sa.RowMapping:
    """Counts of other users' connections of the same account: `connections`, `serving`, how often they were connected
    after `since` (`newer_connects`), and when the last of their grants was revoked after it (`grant_ended_at`)."""
    parameters = {
        "provider": provider,
        "account_id": account_id,
        "integration_id": integration_id,
        "since": since,
        "since_id": uuid7_floor(since),
        "limit": ACCOUNTS_LOOKED_AT,
    }
    return (await connection.execute(_SAME_ACCOUNT, parameters)).mappings().one()


async def last_revocation(connection: AsyncConnection, integration_id: UUID) -> sa.RowMapping | None:
    """What becomes of the grant that the last disconnect gave up."""
    return (await connection.execute(_REVOCATIONS, {"integration_id": integration_id})).mappings().one_or_none()


async def recent_flows(
    connection: AsyncConnection, *, user_id: str, provider: str, since: datetime
) -> Sequence[sa.RowMapping]:
    """Attempts to connect, the latest first; those that a user made many of are not all kept."""
    parameters = {"user_id": user_id, "provider": provider, "since": since}
    return (await connection.execute(_FLOWS, parameters)).mappings().all()
