"""The door (the statement of a token read) for many requests of one service: the same checks and records as for one
request, in one statement."""

import json
from collections.abc import Sequence
from typing import Final

from services.user_management.core.ids import uuid7
from services.user_management.database import DriverPool, fetch_rows
from services.user_management.queries.token_read import (
    NEW_FOR_SECONDS,
    TokenQuery,
    TokenReading,
    door,
    reading,
)

_MANY: Final = {
    "user": "request.user_id",
    "issuer": "$3",
    "resolved": "resolved.id",
    "person": "person.id",
    "provider": "request.provider",
    "provider_known": "request.provider_known",
    "scopes": "request.scopes",
    "account": "request.account",
    "reason": "request.reason",
    "demanded": "request.demanded",
    "default": "$4::float8",
    "record_id": "request.record_id",
    "request_id": "$6",
    "replaces": "false",
    "new_for": str(NEW_FOR_SECONDS),
}
_WHOLE: Final = """
WITH caller AS MATERIALIZED ({caller}),
request AS MATERIALIZED (
    SELECT r.*
    FROM jsonb_to_recordset($5::jsonb) AS r(
        position integer, record_id uuid, user_id text, provider text, provider_known boolean, scopes jsonb,
        account text, reason text, demanded float8)
), decision AS MATERIALIZED (
    SELECT request.position, {outcome}
    FROM request
    LEFT JOIN caller ON true
    LEFT JOIN LATERAL ({allowed}) AS allowed ON true
    -- OFFSET 0: as a part of the next one, its subqueries would keep the planner from the index.
    LEFT JOIN LATERAL ({resolved} OFFSET 0) AS resolved ON true
    LEFT JOIN LATERAL ({person}) AS person ON true
    LEFT JOIN LATERAL ({connection}) AS connection ON true
), record AS ({record})
{answer}
ORDER BY position
"""
STATEMENT: Final = door(_WHOLE, _MANY)
"""The door for many requests. Its parameters: key id, secret hash, default issuer, default remaining life in seconds,
the requests as JSON, request id."""


async def read_tokens(pool: DriverPool, queries: Sequence[TokenQuery], *, timeout_seconds: float) -> list[TokenReading]:
    """Run the statement for `queries`, of which there must be at least one, and return the answers in their order. All
    must have the key, issuer, default life and request id of the first; `replaces` has no effect. Raises TimeoutError
    if there is no answer in time, and ReadOnlySQLTransactionError if the server takes no writes. Then no
    token is returned, since the records are written in the same statement."""
    first = queries[0]
    requests = [
        {
            "position": position,
            "record_id": str(uuid7()),
            "user_id": query.user,
            "provider": query.provider,
            "provider_known": query.provider_known,
            "scopes": query.scopes,
            "account": query.account,
            "reason": query.reason,
            "demanded": query.demanded_seconds,
        }
        for position, query in enumerate(queries)
    ]
    rows = await fetch_rows(
        pool,
        STATEMENT,
        first.key_id,
        first.secret_hash,
        first.default_issuer,
        first.default_seconds,
        json.dumps(requests),
        first.request_id,
        timeout_seconds=timeout_seconds,
    )
    return [reading(row) for row in rows]
