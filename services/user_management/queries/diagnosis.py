"""Reads what is known about one user's integration with one provider, for the diagnosis of why it does not work."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7_floor
from services.user_management.queries.rows import all_rows, one_row

READS_LOOKED_AT: Final = 50
ACCOUNTS_LOOKED_AT: Final = 50
"""The most integrations of the same account by other users that are looked at; what matters is whether there are few or
many."""

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
SELECT count(*) AS integrations,
       coalesce(sum(connects.newer), 0) AS newer_connects,
       max(ended.at) AS consent_ended_at
FROM (
    SELECT id, user_id FROM integrations
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


@dataclass(frozen=True, slots=True)
class DiagnosedProvider:
    """A provider's state, as the last periodic check saw it."""

    state: str
    reason: str | None
    since: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token of the diagnosed integration, encrypted."""

    ciphertext: bytes
    key_version: int
    issued_at: datetime
    expires_at: datetime | None
    """None for a token that does not run out, and for every refresh token."""


@dataclass(frozen=True, slots=True)
class DiagnosedIntegration:
    """The integration that a diagnosis is about, without its tokens."""

    id: UUID
    provider_account_id: str
    account_email: str | None
    status: str
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: list[str]
    requested_scopes: list[str] | None
    connected_at: datetime
    disconnected_at: datetime | None
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure: str | None
    last_failure_detail: str | None
    last_failure_at: datetime | None
    failing_since: datetime | None
    refresh_failures: int
    refresh_not_before: datetime | None
    clock_skew_seconds: int | None


@dataclass(frozen=True, slots=True)
class Subject:
    """The user whom a diagnosis is about, with the provider's state, and the integration and its tokens if there are
    any."""

    read_at: datetime
    """When all of this was read, by the database's clock."""
    user_status: str
    user_deleted_at: datetime | None
    provider: DiagnosedProvider | None
    """None: the provider was never checked."""
    integration: DiagnosedIntegration | None
    access: StoredToken | None
    refresh: StoredToken | None


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """How many of the latest token reads had this outcome, and when the last one of these was."""

    outcome: str
    reads: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class OtherConnects:
    """Other users' integrations of the same account at the provider."""

    integrations: int
    newer_connects: int
    """How often these integrations were connected after the diagnosed one was."""
    consent_ended_at: datetime | None
    """When a token of these integrations was last revoked at the provider, after the diagnosed one was connected; None:
    never."""


@dataclass(frozen=True, slots=True)
class LastRevocation:
    """The newest revocation of a token of the integration at its provider."""

    state: str
    attempts: int
    last_failure: str | None
    requested_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """One attempt of a user to connect an account."""

    status: str
    error: str | None
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


async def read_subject(
    connection: AsyncConnection, *, user_id: str, provider: str, account: str | None
) -> Subject | None:
    """Read the user, the provider's state, one integration and its tokens; None: there is no such user.

    The integration is that of `account` (id at the provider or e-mail; a match by id goes first). If `account` is None,
    it is the primary one or, if all are disconnected, the one that was disconnected last.
    """
    parameters = {"user_id": user_id, "provider": provider, "account": account}
    row = (await connection.execute(_SUBJECT, parameters)).one_or_none()
    if row is None:
        return None
    columns = {field.name: getattr(row, field.name) for field in fields(DiagnosedIntegration)}
    return Subject(
        read_at=row.read_at,
        user_status=row.user_status,
        user_deleted_at=row.user_deleted_at,
        provider=_provider(row),
        integration=None if row.id is None else DiagnosedIntegration(**columns),
        access=_token(row, "access", row.access_expires_at),
        refresh=_token(row, "refresh", None),
    )


def _provider(row: sa.Row[Any]) -> DiagnosedProvider | None:
    if row.provider_state is None:
        return None
    return DiagnosedProvider(row.provider_state, row.provider_reason, row.provider_since, row.provider_checked_at)


def _token(row: sa.Row[Any], kind: str, expires_at: datetime | None) -> StoredToken | None:
    ciphertext, key_version, issued_at = (
        getattr(row, f"{kind}_{column}") for column in ("ciphertext", "key_version", "issued_at")
    )
    return None if ciphertext is None else StoredToken(ciphertext, key_version, issued_at, expires_at)


async def latest_reads(connection: AsyncConnection, *, user_id: str, provider: str) -> list[OutcomeCount]:
    """Count the latest READS_LOOKED_AT reads of the user's tokens of `provider`, refused ones included, by outcome."""
    parameters = {"user_id": user_id, "provider": provider, "limit": READS_LOOKED_AT}
    return all_rows(OutcomeCount, await connection.execute(_READS, parameters))


async def count_connects(connection: AsyncConnection, *, user_id: str, integration_id: UUID) -> int:
    """Count how often the user has connected the account of this integration, as far back as the audit goes."""
    parameters = {"user_id": user_id, "integration_id": str(integration_id)}
    return int((await connection.execute(_CONNECTS, parameters)).scalar_one())


async def same_account(
    connection: AsyncConnection, *, provider: str, account_id: str, integration_id: UUID, since: datetime
) -> OtherConnects:
    """Count other users' integrations of the same account, at most ACCOUNTS_LOOKED_AT, and how often they were
    connected after `since`; find when a token of theirs was last revoked after `since`."""
    parameters = {
        "provider": provider,
        "account_id": account_id,
        "integration_id": integration_id,
        "since": since,
        "since_id": uuid7_floor(since),
        "limit": ACCOUNTS_LOOKED_AT,
    }
    row = (await connection.execute(_SAME_ACCOUNT, parameters)).one()
    return OtherConnects(row.integrations, int(row.newer_connects), row.consent_ended_at)


async def last_revocation(connection: AsyncConnection, integration_id: UUID) -> LastRevocation | None:
    """Read the newest revocation of a token of the integration; None: none was ever requested."""
    return one_row(LastRevocation, await connection.execute(_REVOCATIONS, {"integration_id": integration_id}))


async def recent_flows(
    connection: AsyncConnection, *, user_id: str, provider: str, since: datetime
) -> list[ConnectAttempt]:
    """List a user's attempts to connect the provider that began at `since` or later, the latest first. Of many
    attempts, only the newest are in the database."""
    parameters = {"user_id": user_id, "provider": provider, "since": since}
    return all_rows(ConnectAttempt, await connection.execute(_FLOWS, parameters))
