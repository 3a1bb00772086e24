"""Tokens that their providers are to forget."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.ids import uuid7
from services.user_management.enums import RevocationState, TokenKind

_REQUEST = sa.text("""
INSERT INTO token_revocations
    (id, integration_id, user_id, provider, provider_account_id, kind, ciphertext, key_version, state, attempts,
     next_attempt_at, requested_at, finished_at)
SELECT :id, i.id, i.user_id, i.provider, i.provider_account_id, t.kind,
       CASE WHEN :possible THEN t.ciphertext END, CASE WHEN :possible THEN t.key_version END,
       CASE WHEN :possible THEN 'pending' ELSE 'impossible' END, 0,
       CASE WHEN :possible THEN now() END, now(), CASE WHEN :possible THEN NULL ELSE now() END
FROM integrations i JOIN encrypted_tokens t ON t.integration_id = i.id
WHERE i.id = :integration_id
ORDER BY t.kind = :preferred DESC LIMIT 1
RETURNING id
""")

_SUPERSEDE = sa.text("""
UPDATE token_revocations
SET state = 'superseded', ciphertext = NULL, key_version = NULL, next_attempt_at = NULL, finished_at = now()
WHERE integration_id = :integration_id AND state = 'pending'
""")

_CLAIM = sa.text("""
UPDATE token_revocations r
SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :lease_seconds)
WHERE id IN (
    SELECT id FROM token_revocations WHERE state = 'pending' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING r.id, r.integration_id, r.user_id, r.provider, r.provider_account_id, r.kind, r.ciphertext, r.key_version,
    r.attempts, extract(epoch FROM now() - r.requested_at)::float8 AS age_seconds,
    EXISTS (
        SELECT FROM integrations i
        WHERE i.provider = r.provider AND i.provider_account_id = r.provider_account_id
          AND i.status IN ('active', 'degraded')) AS account_is_connected
""")

_FINISH = sa.text("""
UPDATE token_revocations
SET state = :state, ciphertext = NULL, key_version = NULL, next_attempt_at = NULL, finished_at = now(),
    last_failure = coalesce(:failure, last_failure)
WHERE id = :id AND state = 'pending'
""").bindparams(sa.bindparam("failure", type_=sa.Text()))

_POSTPONE = sa.text("""
UPDATE token_revocations
SET next_attempt_at = now() + make_interval(secs => :seconds), last_failure = :failure
WHERE id = :id AND state = 'pending'
""")

_PRUNE = sa.text("DELETE FROM token_revocations WHERE id < :before AND state <> 'pending'")


@dataclass(frozen=True, slots=True)
class DueRevocation:
    """A token to be revoked now, by us, for as long as the claim's lease lasts."""

    id: UUID
    integration_id: UUID
    user_id: str
    provider: str
    kind: TokenKind
    ciphertext: bytes
    key_version: int
    attempts: int
    """This one included."""
    age_seconds: float
    account_is_connected: bool
    """The same account at the provider has a working connection again, of this user or of another."""


async def request(
    connection: AsyncConnection, integration_id: UUID, *, preferred: TokenKind, possible: bool
) -> RevocationState | None:
    """Note that a token of the connection is to be revoked, `preferred` if there is one; call it before the tokens are
    deleted. With `possible` False it is only recorded that it cannot be done. None: there is no token.
    """
    parameters = {"id": uuid7(), "integration_id": integration_id, "preferred": preferred.value, "possible": possible}
    if (await connection.execute(_REQUEST, parameters)).one_or_none() is None:
        return None
    return RevocationState.PENDING if possible else RevocationState.IMPOSSIBLE


async def supersede(connection: AsyncConnection, integration_id: UUID) -> None:
    """The account was connected again: what waits would end the new grant too."""
    await connection.execute(_SUPERSEDE, {"integration_id": integration_id})


async def claim_due(connection: AsyncConnection, *, limit: int, lease_seconds: float) -> list[DueRevocation]:
    """Take revocations that are due; whoever dies with them leaves them to others when the lease ends."""
    rows = await connection.execute(_CLAIM, {"limit": limit, "lease_seconds": lease_seconds})
    return [
        DueRevocation(
            id=row.id,
            integration_id=row.integration_id,
            user_id=row.user_id,
            provider=row.provider,
            kind=TokenKind(row.kind),
            ciphertext=row.ciphertext,
            key_version=row.key_version,
            attempts=row.attempts,
            age_seconds=row.age_seconds,
            account_is_connected=row.account_is_connected,
        )
        for row in rows
    ]


async def finish(
    connection: AsyncConnection, revocation_id: UUID, state: RevocationState, *, failure: str | None = None
) -> bool:
    """Nothing is left to do; the ciphertext goes. False when it was superseded in the meantime."""
    parameters = {"id": revocation_id, "state": state.value, "failure": failure}
    return (await connection.execute(_FINISH, parameters)).rowcount == 1


async def postpone(connection: AsyncConnection, revocation_id: UUID, *, seconds: float, failure: str) -> None:
    """Try again later."""
    await connection.execute(_POSTPONE, {"id": revocation_id, "seconds": seconds, "failure": failure})


async def prune(connection: AsyncConnection, *, before: UUID) -> None:
    """Forget what was requested before the time in `before` and is finished."""
    await connection.execute(_PRUNE, {"before": before})
