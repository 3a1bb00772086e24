"""Statements on connect attempts, in code flows. One UPDATE … RETURNING consumes a flow, so each is used once; the
number that is kept for a user is limited."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import OAuthFlow
from services.user_management.queries.pruning import delete_batch

_flows = OAuthFlow.ormar_config.table

KEPT_PER_PROVIDER: Final = 10
KEPT_PER_USER: Final = 50
"""How many connect attempts of one user are kept with one provider (KEPT_PER_PROVIDER) and in all (KEPT_PER_USER),
open or ended, including the one that is just beginning."""

_RETURN = sa.text("""
UPDATE oauth_flows
SET status = :status, code_ciphertext = :code, code_key_version = :key_version, error = :error
WHERE id = :id AND status = 'pending' AND expires_at > now()
RETURNING id
""").bindparams(sa.bindparam("code", type_=sa.LargeBinary()))

_CONSUME = sa.text("""
UPDATE oauth_flows f
SET status = 'consumed', consumed_at = now(), code_ciphertext = NULL, code_key_version = NULL
FROM oauth_flows before
WHERE f.id = before.id AND f.user_id = :user_id AND f.provider = :provider AND f.expires_at > now()
  AND (f.id = CAST(:flow_id AS uuid) AND f.status IN ('returned', 'failed')
       OR f.state_hash = CAST(:state_hash AS bytea) AND f.status = 'pending')
RETURNING f.id, before.status, before.error, before.code_ciphertext, before.code_key_version,
          f.state_hash, f.redirect_uri, f.requested_scopes
""").columns(requested_scopes=sa.JSON)

# This never waits for a row, so the order in which it locks them does not matter. An attempt that is being used right
# now is deleted the next time.
_GIVE_UP = sa.text("""
DELETE FROM oauth_flows WHERE id = ANY(ARRAY(
    SELECT f.id
    FROM (
        SELECT id, provider, row_number() OVER (ORDER BY id DESC) AS of_user,
               row_number() OVER (PARTITION BY provider ORDER BY id DESC) AS of_provider
        FROM oauth_flows WHERE user_id = :user_id
    ) AS newest
    JOIN oauth_flows f ON f.id = newest.id
    WHERE newest.of_user >= :per_user OR newest.provider = :provider AND newest.of_provider >= :per_provider
    FOR UPDATE OF f SKIP LOCKED
))
""")


@dataclass(frozen=True, slots=True)
class ConsumedFlow:
    """A flow that was just consumed and can never be used again, with what it held. `error` is why the provider or the
    user refused, if one did."""

    id: UUID
    error: str | None
    code_ciphertext: bytes | None
    code_key_version: int | None
    state_hash: bytes
    redirect_uri: str
    requested_scopes: tuple[str, ...]


async def make_room(connection: AsyncConnection, *, user_id: str, provider: str) -> None:
    """Delete the user's oldest attempts, open ones too, so that one more can begin within KEPT_PER_PROVIDER and
    KEPT_PER_USER. An attempt that is being used at this moment is kept. Lock the user first."""
    limits = {"per_provider": KEPT_PER_PROVIDER, "per_user": KEPT_PER_USER}
    await connection.execute(_GIVE_UP, {"user_id": user_id, "provider": provider, **limits})


async def record_return(
    connection: AsyncConnection, flow_id: UUID, *, code: tuple[bytes, int] | None, error: str | None
) -> bool:
    """Store what the provider sent back: `code` as (ciphertext, key version), or `error`. False if the attempt does not
    wait for an answer: it has one, has expired, or is gone."""
    parameters = {
        "id": flow_id,
        "status": "returned" if code else "failed",
        "code": code[0] if code else None,
        "key_version": code[1] if code else None,
        "error": error,
    }
    return (await connection.execute(_RETURN, parameters)).one_or_none() is not None


async def consume(
    connection: AsyncConnection, *, user_id: str, provider: str, flow_id: UUID | None, state_hash: bytes | None
) -> ConsumedFlow | None:
    """Consume a flow that `user_id` started with `provider`. None if there is none, or it has expired or was consumed.

    Give `flow_id` if the provider returned to our callback, whose answer must be stored already, or `state_hash` if it
    returned to the front end.
    """
    parameters = {"user_id": user_id, "provider": provider, "flow_id": flow_id, "state_hash": state_hash}
    row = (await connection.execute(_CONSUME, parameters)).one_or_none()
    if row is None:
        return None
    return ConsumedFlow(
        id=row.id,
        error=row.error,
        code_ciphertext=row.code_ciphertext,
        code_key_version=row.code_key_version,
        state_hash=row.state_hash,
        redirect_uri=row.redirect_uri,
        requested_scopes=tuple(row.requested_scopes),
    )


async def prune(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` attempts that expired before `before`, together with authorization codes that nobody used.
    Returns how many."""
    return await delete_batch(connection, _flows, _flows.c.expires_at < before, limit=limit)
