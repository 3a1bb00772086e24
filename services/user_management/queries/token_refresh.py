"""Statements on the lease and the fence of a refresh. All times are by the database's clock, so hosts whose clocks
differ agree.

The lease is the right of one process, until a time, to refresh an integration's tokens. The fence is the integration's
`token_version`, which must be unchanged when the new tokens are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.enums import TokenKind

LEASE_SECONDS: Final = 30
"""The lease at a provider that accepts each refresh token once: no other process may call before the holder's call is
surely over. At any provider this is also how long after the claim its holder may store an answer."""
SHORT_LEASE_SECONDS: Final = 4
"""The lease at other providers, where a second call does no harm. It ends soon after the process that holds it was
killed; a process that is alive renews it."""

_CLAIM = (
    sa.text("""
UPDATE integrations i
SET refresh_lease_owner = :owner,
    refresh_lease_until = now() + make_interval(secs =>
        CASE WHEN i.provider = ANY(:short_at) THEN :short_lease_seconds ELSE :lease_seconds END),
    refresh_attempts = i.refresh_attempts + 1
FROM users u
WHERE i.id = :id AND i.token_version = :token_version AND i.status IN ('active', 'degraded')
  AND (i.refresh_lease_until IS NULL OR i.refresh_lease_until < now())
  AND (i.refresh_not_before IS NULL OR i.refresh_not_before <= now())
  AND u.id = i.user_id AND u.deleted_at IS NULL AND u.status = 'active'
RETURNING i.user_id, i.provider, i.granted_scopes, i.refresh_attempts, i.refresh_failures, i.last_failure,
    i.provider = ANY(:short_at) AS is_short,
    (SELECT version FROM encryption_keys WHERE state = 'active') AS active_key_version
""")
    .bindparams(
        sa.bindparam("short_at", type_=sa.ARRAY(sa.Text())),
        sa.bindparam("short_lease_seconds", type_=sa.Integer()),
        sa.bindparam("lease_seconds", type_=sa.Integer()),
    )
    .columns(granted_scopes=sa.JSON)
)

_RENEW = sa.text("""
UPDATE integrations SET refresh_lease_until = now() + make_interval(secs => :lease_seconds)
WHERE id = :id AND refresh_lease_owner = :owner
""")

_HELD_TOKENS = sa.text("""
SELECT kind, ciphertext, key_version, extract(epoch FROM expires_at - now())::float8 AS remaining
FROM encrypted_tokens WHERE integration_id = :id
""")

_STATE = sa.text("""
SELECT i.token_version, i.provider, i.last_failure,
       i.status IN ('active', 'degraded') AND u.status = 'active' AND u.deleted_at IS NULL AS serving,
       coalesce(i.refresh_lease_until > now(), false) AS leased,
       greatest(0, extract(epoch FROM i.refresh_not_before - now()))::float8 AS cool_down_seconds
FROM integrations i JOIN users u ON u.id = i.user_id WHERE i.id = :id
""")

_ADVANCE = (
    sa.text("""
UPDATE integrations i
SET token_version = i.token_version + 1, version = i.version + 1, status = 'active', status_reason = NULL,
    status_changed_at = CASE WHEN i.status = 'active' THEN i.status_changed_at ELSE now() END,
    granted_scopes = coalesce(CAST(:scopes AS jsonb), i.granted_scopes),
    refresh_lease_owner = NULL, refresh_lease_until = NULL, refresh_attempts = 0, refresh_failures = 0,
    refresh_not_before = now() + make_interval(secs => :cool_down_seconds),
    last_refresh_at = now(), last_failure = NULL, last_failure_detail = NULL, failing_since = NULL, updated_at = now()
FROM (SELECT id, status FROM integrations WHERE id = :id FOR UPDATE) AS former
WHERE i.id = former.id AND i.token_version = :token_version AND i.status IN ('active', 'degraded', 'needs_reauth')
  AND i.refresh_attempts <= coalesce(:attempts, i.refresh_attempts)
RETURNING former.status AS former_status, i.token_version, i.granted_scopes
""")
    .bindparams(sa.bindparam("scopes", type_=sa.JSON(none_as_null=True)), sa.bindparam("attempts", type_=sa.Integer()))
    .columns(granted_scopes=sa.JSON)
)

_PUT_TOKEN = sa.text("""
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at, expires_at)
VALUES (:id, :integration_id, :kind, :ciphertext, :key_version, now(),
        now() + make_interval(secs => CAST(:lifetime_seconds AS float8)))
ON CONFLICT (integration_id, kind) DO UPDATE
SET ciphertext = excluded.ciphertext, key_version = excluded.key_version,
    issued_at = excluded.issued_at, expires_at = excluded.expires_at
""")

_RELEASE = sa.text("""
UPDATE integrations
SET refresh_lease_owner = NULL, refresh_lease_until = NULL,
    refresh_attempts = :attempts,
    refresh_failures = refresh_failures + CASE WHEN :provider_failed THEN 1 ELSE 0 END,
    failing_since = CASE WHEN :provider_failed THEN coalesce(failing_since, now()) ELSE failing_since END,
    last_failure = coalesce(:failure, last_failure),
    last_failure_detail = CASE WHEN CAST(:failure AS text) IS NULL THEN last_failure_detail ELSE :detail END,
    last_failure_at = CASE WHEN CAST(:failure AS text) IS NULL THEN last_failure_at ELSE now() END,
    refresh_not_before = now() + make_interval(secs => :cool_down_seconds), updated_at = now()
WHERE id = :id AND token_version = :token_version AND refresh_lease_owner = :owner
RETURNING refresh_failures, extract(epoch FROM now() - failing_since)::float8 AS failing_seconds
""").bindparams(sa.bindparam("failure", type_=sa.Text()), sa.bindparam("detail", type_=sa.Text()))


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A stored, encrypted token."""

    kind: TokenKind
    ciphertext: bytes
    key_version: int
    remaining_seconds: float | None
    """Seconds until the token expires; None if it does not."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to call the provider once, while the lease lasts, for one version of one integration's tokens."""

    owner: UUID
    is_short: bool
    """Whether the lease lasts SHORT_LEASE_SECONDS and is to be renewed; otherwise it lasts LEASE_SECONDS."""
    integration_id: UUID
    token_version: int
    user_id: str
    provider: str
    granted_scopes: tuple[str, ...]
    attempts: int
    """Calls whose outcome is unknown, the one that this claim is for included."""
    failures: int
    """Failures of the provider in a row before this claim."""
    last_failure: str | None
    """The code of the last failure; None if none is recorded."""
    active_key_version: int
    tokens: dict[TokenKind, StoredToken]

    @property
    def earlier_outcome_unknown(self) -> bool:
        """Whether an earlier call was sent and its outcome is unknown, so that the stored refresh token may be used
        up."""
        return self.attempts > 1


@dataclass(frozen=True, slots=True)
class RefreshState:
    """What a process that waits for another process's refresh of an integration needs to know."""

    token_version: int
    provider: str
    last_failure: str | None
    serving: bool
    """Whether the integration serves tokens and its user is active, so that there is something to refresh."""
    leased: bool
    """Whether a process holds the lease."""
    cool_down_seconds: float
    """For how many seconds no refresh may begin; 0: one may begin now."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: the provider's error code or a code of ours, and the provider's more detailed code if it sent
    one."""

    code: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class FailureRun:
    """How many failures of the provider there were in a row, and how many seconds ago the first of these was; both are
    0 if the failure was not the provider's."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Advanced:
    """An integration whose fence `advance` has raised, as it is now, with its status before."""

    former_status: str
    token_version: int
    granted_scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be stored. `lifetime_seconds` counts from now; None: the token does not run out."""

    kind: TokenKind
    ciphertext: bytes
    key_version: int
    lifetime_seconds: float | None


async def claim(
    connection: AsyncConnection, *, integration_id: UUID, token_version: int, short_at: Sequence[str] = ()
) -> Claim | None:
    """Take the lease, a short one at the providers `short_at`, and count the attempt. None if the tokens are no longer
    those of `token_version`, a process holds the lease, or the integration must not be refreshed now: it is in a
    cool-down or cannot serve tokens, or its user is deleted or not active."""
    owner = uuid7()
    parameters: dict[str, Any] = {
        "id": integration_id,
        "token_version": token_version,
        "owner": owner,
        "short_at": list(short_at),
        "short_lease_seconds": SHORT_LEASE_SECONDS,
        "lease_seconds": LEASE_SECONDS,
    }
    row = (await connection.execute(_CLAIM, parameters)).one_or_none()
    if row is None:
        return None
    held = await connection.execute(_HELD_TOKENS, {"id": integration_id})
    tokens = [StoredToken(TokenKind(t.kind), t.ciphertext, t.key_version, t.remaining) for t in held]
    return Claim(
        owner=owner,
        is_short=row.is_short,
        integration_id=integration_id,
        token_version=token_version,
        user_id=row.user_id,
        provider=row.provider,
        granted_scopes=tuple(row.granted_scopes),
        attempts=row.refresh_attempts,
        failures=row.refresh_failures,
        last_failure=row.last_failure,
        active_key_version=row.active_key_version,
        tokens={token.kind: token for token in tokens},
    )


async def renew(connection: AsyncConnection, held: Claim) -> None:
    """Let a short lease last SHORT_LEASE_SECONDS from now, unless it was released or another process has taken it
    meanwhile."""
    parameters = {"id": held.integration_id, "owner": held.owner, "lease_seconds": SHORT_LEASE_SECONDS}
    await connection.execute(_RENEW, parameters)


async def refresh_state(connection: AsyncConnection, integration_id: UUID) -> RefreshState | None:
    """Read the state of an integration's refresh once, for callers who wait for another process's refresh. None: there
    is no such integration."""
    row = (await connection.execute(_STATE, {"id": integration_id})).one_or_none()
    if row is None:
        return None
    return RefreshState(
        token_version=row.token_version,
        provider=row.provider,
        last_failure=row.last_failure,
        serving=row.serving,
        leased=row.leased,
        cool_down_seconds=row.cool_down_seconds or 0.0,
    )


async def advance(
    connection: AsyncConnection,
    *,
    integration_id: UUID,
    token_version: int,
    attempts: int | None,
    scopes: tuple[str, ...] | None,
    cool_down_seconds: float = 0.0,
) -> Advanced | None:
    """Raise the fence, release the lease, clear the recorded failures, and make the integration active, also if it was
    degraded or needed its user. Call it before the new tokens are stored, in the same transaction. `scopes` replace the
    granted ones, unless None; for `cool_down_seconds` no other refresh may begin.

    None if the fence is no longer `token_version`, since other tokens were stored first, or the integration is revoked
    or disconnected. If `attempts` is given, also None when the row counts more attempts by now: then another process
    has claimed the integration and may have asked the provider.
    """
    parameters: dict[str, Any] = {
        "id": integration_id,
        "token_version": token_version,
        "attempts": attempts,
        "scopes": list(scopes) if scopes is not None else None,
        "cool_down_seconds": cool_down_seconds,
    }
    row = (await connection.execute(_ADVANCE, parameters)).one_or_none()
    return None if row is None else Advanced(row.former_status, row.token_version, tuple(row.granted_scopes))


async def put_token(connection: AsyncConnection, integration_id: UUID, token: NewToken) -> None:
    """Insert or replace one token of an integration."""
    await connection.execute(
        _PUT_TOKEN,
        {
            "id": uuid7(),
            "integration_id": integration_id,
            "kind": token.kind.value,
            "ciphertext": token.ciphertext,
            "key_version": token.key_version,
            "lifetime_seconds": token.lifetime_seconds,
        },
    )


async def release(
    connection: AsyncConnection,
    held: Claim,
    failure: Failure | None,
    *,
    attempts: int,
    provider_failed: bool,
    cool_down_seconds: float,
) -> FailureRun:
    """Release the lease after a failure, with a cool-down. Without a `failure` the recorded one stays. Only a failure
    of the provider (`provider_failed`) is counted. `attempts`: the number of calls whose outcome is unknown.

    Returns the provider's failures in a row; zero if the failure was not the provider's. Returns zero and changes
    nothing if the lease was taken over, or the fence has moved.
    """
    parameters = {
        "id": held.integration_id,
        "token_version": held.token_version,
        "owner": held.owner,
        "failure": failure.code if failure else None,
        "detail": failure.detail if failure else None,
        "attempts": attempts,
        "provider_failed": provider_failed,
        "cool_down_seconds": cool_down_seconds,
    }
    row = (await connection.execute(_RELEASE, parameters)).one_or_none()
    if row is None or not provider_failed:
        return FailureRun(0, 0.0)
    return FailureRun(int(row.refresh_failures), float(row.failing_seconds))
