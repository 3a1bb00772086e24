"""Statements on the tokens that are to be revoked at their providers."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7, uuid7_floor
from services.user_management.enums import RevocationState, TokenKind
from services.user_management.models import TokenRevocation
from services.user_management.queries.pruning import delete_batch
from services.user_management.queries.rows import Parameters

_revocations = TokenRevocation.ormar_config.table

_REQUEST = sa.text("""
WITH wanted AS (
    SELECT * FROM encrypted_tokens WHERE integration_id = :integration_id ORDER BY kind = :preferred DESC LIMIT 1
), companion AS (
    SELECT ciphertext, key_version FROM encrypted_tokens
    WHERE integration_id = :integration_id AND kind = 'refresh' AND (SELECT kind FROM wanted) = 'access'
)
INSERT INTO token_revocations
    (id, integration_id, user_id, provider, provider_account_id, kind, ciphertext, key_version, expires_at,
     refresh_ciphertext, refresh_key_version, state, attempts, next_attempt_at, requested_at, finished_at)
SELECT :id, i.id, i.user_id, i.provider, CASE WHEN :possible THEN i.provider_account_id ELSE '' END, w.kind,
       CASE WHEN :possible THEN w.ciphertext END, CASE WHEN :possible THEN w.key_version END,
       CASE WHEN :possible THEN w.expires_at END, CASE WHEN :possible THEN c.ciphertext END,
       CASE WHEN :possible THEN c.key_version END, CASE WHEN :possible THEN 'pending' ELSE 'impossible' END, 0,
       CASE WHEN :possible THEN now() END, now(), CASE WHEN :possible THEN NULL ELSE now() END
FROM integrations i JOIN wanted w ON true LEFT JOIN companion c ON true
WHERE i.id = :integration_id
RETURNING id
""")

_ADD = sa.text("""
INSERT INTO token_revocations
    (id, integration_id, user_id, provider, provider_account_id, kind, ciphertext, key_version, expires_at,
     refresh_ciphertext, refresh_key_version, state, attempts, next_attempt_at, requested_at)
VALUES (:id, :integration_id, :user_id, :provider,
        coalesce((SELECT provider_account_id FROM integrations WHERE id = :integration_id), :account_id),
        :kind, :ciphertext, :key_version, now() + make_interval(secs => CAST(:lifetime_seconds AS float8)),
        :refresh_ciphertext, :refresh_key_version, 'pending', 0, now(), now())
""").bindparams(sa.bindparam("refresh_ciphertext", type_=sa.LargeBinary()))

_HOLD_BACK = sa.text("""
UPDATE token_revocations
SET next_attempt_at = greatest(next_attempt_at, now() + make_interval(secs => :seconds))
WHERE user_id = :user_id AND provider = :provider AND state = 'pending'
RETURNING lease_until > now() AS under_way
""")

_SUPERSEDE = sa.text("""
UPDATE token_revocations
SET state = 'superseded', ciphertext = NULL, key_version = NULL, refresh_ciphertext = NULL, refresh_key_version = NULL,
    provider_account_id = '', next_attempt_at = NULL, lease_until = NULL, finished_at = now()
WHERE integration_id = :integration_id AND state = 'pending'
""")

_CLAIM = sa.text("""
UPDATE token_revocations r
SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :lease_seconds),
    lease_until = now() + make_interval(secs => :lease_seconds)
WHERE id IN (
    SELECT id FROM token_revocations WHERE state = 'pending' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING r.id, r.integration_id, r.user_id, r.provider, r.provider_account_id, r.kind, r.ciphertext, r.key_version,
    r.refresh_ciphertext, r.refresh_key_version, r.attempts,
    coalesce(r.expires_at <= now() + interval '1 minute', false) AS has_run_out,
    extract(epoch FROM now() - r.requested_at)::float8 AS age_seconds,
    EXISTS (
        SELECT FROM integrations i
        WHERE i.provider = r.provider AND i.provider_account_id = r.provider_account_id
          AND (i.status IN ('active', 'degraded') OR i.status_reason IN ('scope_upgrade', 'scope_missing'))
    ) AS account_is_connected
""")

_RENEW = sa.text("""
UPDATE token_revocations
SET kind = :kind, ciphertext = :ciphertext, key_version = :key_version,
    expires_at = now() + make_interval(secs => CAST(:lifetime_seconds AS float8)),
    refresh_ciphertext = :refresh_ciphertext, refresh_key_version = :refresh_key_version
WHERE id = :id AND state = 'pending' AND attempts = :attempts
""").bindparams(sa.bindparam("refresh_ciphertext", type_=sa.LargeBinary()))

_FINISH = sa.text("""
UPDATE token_revocations
SET state = :state, ciphertext = NULL, key_version = NULL, refresh_ciphertext = NULL, refresh_key_version = NULL,
    provider_account_id = '', next_attempt_at = NULL, lease_until = NULL, finished_at = now(),
    last_failure = coalesce(:failure, last_failure)
WHERE id = :id AND state = 'pending'
""").bindparams(sa.bindparam("failure", type_=sa.Text()))

_POSTPONE = sa.text("""
UPDATE token_revocations
SET next_attempt_at = now() + make_interval(secs => :seconds), lease_until = NULL, last_failure = :failure
WHERE id = :id AND state = 'pending'
""")


@dataclass(frozen=True, slots=True)
class SealedToken:
    """An encrypted token, which can be decrypted only together with its integration, user and kind (its binding)."""

    kind: TokenKind
    ciphertext: bytes
    key_version: int


@dataclass(frozen=True, slots=True)
class SealedTokens:
    """The encrypted token that is to be revoked, and the encrypted refresh token that can renew it."""

    token: SealedToken
    renewal: SealedToken | None
    """The refresh token that came with an access token, to get a new one to revoke once that has expired."""
    lifetime_seconds: float | None
    """Seconds from now until the token expires; None if it does not."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The user, provider and integration that a token came from."""

    integration_id: UUID
    """The integration's id, which is part of the token's binding; for a token that never belonged to an integration,
    the id with which the token was encrypted."""
    user_id: str
    provider: str
    account_id: str
    """The account's id at the provider; if the integration's row still exists, the id in that row is stored instead."""


@dataclass(frozen=True, slots=True)
class DueRevocation:
    """A token that this process has claimed and is to revoke before the claim's lease ends."""

    id: UUID
    integration_id: UUID
    user_id: str
    provider: str
    token: SealedToken
    renewal: SealedToken | None
    """The refresh token with which a new access token can be got, if the one to revoke has expired."""
    has_run_out: bool
    """Whether the access token has expired or will within a minute, so that the provider may not know it any more."""
    attempts: int
    """Attempts to revoke the token, this one included."""
    age_seconds: float
    """Seconds since the revocation was requested."""
    account_is_connected: bool
    """Whether the same account at the provider has a working integration again, of this user or another, or one that
    only lacks a required scope."""


async def request(
    connection: AsyncConnection, integration_id: UUID, *, preferred: TokenKind, possible: bool
) -> RevocationState | None:
    """Copy a token of the integration, of the kind `preferred` if it has one, as one to be revoked; the original may be
    deleted afterwards. With `possible` False no token is copied: it is recorded only that the provider cannot revoke.
    Returns the recorded state, or None, with nothing recorded, if the integration has no token."""
    parameters = {"id": uuid7(), "integration_id": integration_id, "preferred": preferred.value, "possible": possible}
    if (await connection.execute(_REQUEST, parameters)).one_or_none() is None:
        return None
    return RevocationState.PENDING if possible else RevocationState.IMPOSSIBLE


async def add(connection: AsyncConnection, origin: Origin, grant: SealedTokens) -> None:
    """Record that a token which belongs to no integration, or no longer does, is to be revoked."""
    parameters = _columns(grant) | {
        "id": uuid7(),
        "integration_id": origin.integration_id,
        "user_id": origin.user_id,
        "provider": origin.provider,
        "account_id": origin.account_id,
    }
    await connection.execute(_ADD, parameters)


async def hold_back(connection: AsyncConnection, *, user_id: str, provider: str, seconds: float) -> bool:
    """Let no pending revocation of the user's tokens at `provider` begin for `seconds`. Returns whether one is under
    way already."""
    rows = await connection.execute(_HOLD_BACK, {"user_id": user_id, "provider": provider, "seconds": seconds})
    under_way = [bool(row.under_way) for row in rows]
    return any(under_way)


async def supersede(connection: AsyncConnection, integration_id: UUID) -> None:
    """End pending revocations for an integration that was connected again, as superseded, and delete their ciphertexts:
    to carry them out would end the new consent too."""
    await connection.execute(_SUPERSEDE, {"integration_id": integration_id})


async def claim_due(connection: AsyncConnection, *, limit: int, lease_seconds: float) -> list[DueRevocation]:
    """Claim at most `limit` revocations that are due, for `lease_seconds`, and count the attempts. If this process
    dies, others can claim them when the lease ends."""
    rows = await connection.execute(_CLAIM, {"limit": limit, "lease_seconds": lease_seconds})
    return [
        DueRevocation(
            id=row.id,
            integration_id=row.integration_id,
            user_id=row.user_id,
            provider=row.provider,
            token=SealedToken(TokenKind(row.kind), row.ciphertext, row.key_version),
            renewal=(
                SealedToken(TokenKind.REFRESH, row.refresh_ciphertext, row.refresh_key_version)
                if row.refresh_ciphertext is not None
                else None
            ),
            has_run_out=row.has_run_out,
            attempts=row.attempts,
            age_seconds=row.age_seconds,
            account_is_connected=row.account_is_connected,
        )
        for row in rows
    ]


async def renew(connection: AsyncConnection, held: DueRevocation, grant: SealedTokens) -> bool:
    """Store the tokens that a refresh brought in place of the claimed ones, before the provider is asked to revoke one
    of them. False, and no change: another process has claimed the revocation meanwhile, or it is no longer pending."""
    parameters = _columns(grant) | {"id": held.id, "attempts": held.attempts}
    return (await connection.execute(_RENEW, parameters)).rowcount == 1


async def finish(
    connection: AsyncConnection, revocation_id: UUID, state: RevocationState, *, failure: str | None = None
) -> bool:
    """End a revocation with `state` and delete its ciphertexts; without `failure`, the last recorded one stays. False,
    and no change: the revocation was no longer pending."""
    parameters = {"id": revocation_id, "state": state.value, "failure": failure}
    return (await connection.execute(_FINISH, parameters)).rowcount == 1


async def postpone(connection: AsyncConnection, revocation_id: UUID, *, seconds: float, failure: str) -> None:
    """Record `failure`, release the lease, and let the revocation be tried again `seconds` from now. Nothing changes if
    it is no longer pending."""
    await connection.execute(_POSTPONE, {"id": revocation_id, "seconds": seconds, "failure": failure})


def _columns(grant: SealedTokens) -> Parameters:
    return {
        "kind": grant.token.kind.value,
        "ciphertext": grant.token.ciphertext,
        "key_version": grant.token.key_version,
        "lifetime_seconds": grant.lifetime_seconds,
        "refresh_ciphertext": grant.renewal.ciphertext if grant.renewal else None,
        "refresh_key_version": grant.renewal.key_version if grant.renewal else None,
    }


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` finished revocations that were requested before `before`, and return how many; ids are
    ordered by time."""
    is_finished = _revocations.c.state != RevocationState.PENDING.value
    is_old = _revocations.c.id < uuid7_floor(before)
    return await delete_batch(connection, _revocations, is_old & is_finished, limit=limit)
