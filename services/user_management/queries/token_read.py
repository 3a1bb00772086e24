"""The statement for a token read, called the door: it authenticates the service, decides, records the read, and returns
the encrypted token. Services get tokens in no other way.

It is one round trip, so that no check can be forgotten, nothing is cached, and a revoked key or grant is refused by the
very next call. It is plain SQL for the driver: through an ORM the same work takes three to five times as long.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple, cast
from uuid import UUID

from services.user_management.core.ids import uuid7
from services.user_management.database import DriverPool, DriverRow, fetch_row
from services.user_management.enums import TokenOutcome
from services.user_management.queries.service_client import LIVE_KEY

NEW_FOR_SECONDS: Final = 10.0
"""A token that was issued within this time is not replaced when a caller asks for another."""

CALLER: Final = f"""
    SELECT k.id AS key_id, c.id AS client_id
    FROM service_keys k
    JOIN service_clients c ON c.id = k.client_id
    WHERE k.id = $1 AND k.secret_hash = $2 AND {LIVE_KEY} AND c.disabled_at IS NULL
"""  # noqa: S608 - our own constant
ALLOWED: Final = """
    SELECT g.provider, g.reason_required,
           g.scopes IS NULL OR (jsonb_array_length({scopes}) > 0 AND g.scopes @> {scopes}) AS covers
    FROM caller
    JOIN service_grants g ON g.client_id = caller.client_id AND g.provider = {provider}
"""
RESOLVED: Final = """
    SELECT coalesce(
        (SELECT id FROM users WHERE id = {user}),
        (SELECT user_id FROM user_identities WHERE issuer = {issuer} AND subject = {user})) AS id
"""
PERSON: Final = """
    SELECT u.id, u.status, u.deleted_at
    FROM users u
    WHERE u.id = {resolved}
"""
CONNECTION: Final = """
    SELECT i.id, i.provider_account_id, i.status, i.status_reason, i.granted_scopes, i.token_version,
           t.ciphertext, t.key_version, t.issued_at, t.expires_at,
           extract(epoch FROM t.expires_at - now())::float8 AS remaining,
           extract(epoch FROM t.expires_at - t.issued_at)::float8 AS life
    FROM integrations i
    JOIN encrypted_tokens t ON t.integration_id = i.id AND t.kind = 'access'
    WHERE i.user_id = {person} AND i.provider = {provider} AND i.status <> 'disconnected'
      AND CASE WHEN {account} IS NULL THEN i.is_primary
               ELSE i.provider_account_id = {account} OR lower(i.account_email) = lower({account}) END
    ORDER BY i.provider_account_id = {account} DESC, i.is_primary DESC, i.id
    LIMIT 1
"""
OUTCOME: Final = """
    CASE
        WHEN caller.key_id IS NULL THEN 'unauthenticated'
        WHEN NOT {provider_known} THEN 'unknown_provider'
        WHEN allowed.provider IS NULL OR NOT allowed.covers THEN 'grant_denied'
        WHEN allowed.reason_required AND {reason} IS NULL THEN 'reason_required'
        WHEN person.id IS NULL OR person.deleted_at IS NOT NULL THEN 'user_not_found'
        WHEN person.status <> 'active' THEN 'user_inactive'
        WHEN connection.id IS NULL THEN 'not_connected'
        WHEN connection.status IN ('needs_reauth', 'revoked') THEN connection.status
        WHEN NOT connection.granted_scopes @> {scopes} THEN 'insufficient_scope'
        WHEN connection.remaining < least(coalesce({demanded}, {default}), connection.life / 2) THEN 'stale'
        WHEN {replaces} AND connection.issued_at < now() - make_interval(secs => {new_for}) THEN 'stale'
        ELSE 'granted' END AS outcome,
    caller.client_id, caller.key_id, coalesce(person.id, {user}) AS user_id, connection.id AS integration_id,
    connection.provider_account_id, connection.status_reason, connection.granted_scopes, connection.token_version,
    connection.ciphertext, connection.key_version, connection.expires_at, connection.remaining,
    {record_id} AS record_id, {provider} AS provider, {scopes} AS scopes, {reason} AS reason
"""
RECORD: Final = """
    INSERT INTO token_reads
        (id, read_at, client_id, key_id, user_id, provider, integration_id, outcome, scopes, reason, request_id)
    SELECT record_id, now(), client_id, key_id, user_id, provider, integration_id, outcome, scopes,
           -- Users see it, so nobody writes it without a grant for what they asked.
           CASE WHEN outcome NOT IN ('unknown_provider', 'grant_denied') THEN reason END, {request_id}
    FROM decision
    WHERE outcome NOT IN ('unauthenticated', 'stale')
"""
ANSWER: Final = """
    SELECT outcome, client_id, key_id, user_id, integration_id, provider_account_id, status_reason, granted_scopes,
           token_version, key_version, expires_at, remaining,
           CASE WHEN outcome = 'granted' THEN ciphertext END AS ciphertext
    FROM decision
"""
"""The constants from CALLER to ANSWER are the parts of the door, for one request and for many. What differs between the
two is in braces."""
_ONE: Final = {
    "user": "$3",
    "issuer": "$4",
    "resolved": "(SELECT id FROM resolved)",
    "person": "(SELECT id FROM person)",
    "provider": "$5::text",
    "provider_known": "$6::boolean",
    "scopes": "$7::jsonb",
    "account": "$8::text",
    "reason": "$9::text",
    "demanded": "$10::float8",
    "default": "$11::float8",
    "record_id": "$12::uuid",
    "request_id": "$13",
    "replaces": "$14::boolean",
    "new_for": str(NEW_FOR_SECONDS),
}
_WHOLE: Final = """
WITH caller AS ({caller}), allowed AS ({allowed}), resolved AS ({resolved}), person AS ({person}),
connection AS ({connection}),
decision AS (
    SELECT {outcome}
    FROM (SELECT) AS nothing
    LEFT JOIN caller ON true
    LEFT JOIN allowed ON true
    LEFT JOIN person ON true
    LEFT JOIN connection ON true
), record AS ({record})
{answer}
"""


def door(whole: str, places: Mapping[str, str]) -> str:
    """Return the statement `whole` with the door's parts put in. `places` gives, for each name in braces, the SQL
    expression that stands there. All of these are constants, and no value of a request is among them."""
    parts = {
        "caller": CALLER,
        "allowed": ALLOWED,
        "resolved": RESOLVED,
        "person": PERSON,
        "connection": CONNECTION,
        "outcome": OUTCOME,
        "record": RECORD,
        "answer": ANSWER,
    }
    return whole.format(**{name: part.format(**places) for name, part in parts.items()})


STATEMENT: Final = door(_WHOLE, _ONE)
"""The door for one request. Its parameters: key id, secret hash, user id or subject, default issuer, provider, whether
that is configured, scopes as JSON, account or null, reason or null, demanded remaining life or null, default remaining
life (both in seconds), id of the record, request id, whether the token is to be replaced unless it is new."""


class TokenQuery(NamedTuple):
    """One token read: who asks, for whose token, and what it must be good for."""

    key_id: str
    secret_hash: bytes
    user: str
    default_issuer: str
    provider: str
    provider_known: bool
    scopes: tuple[str, ...]
    account: str | None
    reason: str | None
    demanded_seconds: float | None
    """The remaining life that the caller demands, capped by the door at half the token's whole life; None: no
    demand."""
    default_seconds: float
    """The remaining life that is demanded when the caller demands none, with the same cap."""
    request_id: str
    replaces: bool = False
    """True: the provider refused the stored token, which counts as stale unless it was issued in the last
    NEW_FOR_SECONDS."""


class TokenReading(NamedTuple):
    """The door's answer. `ciphertext` is not None only if `outcome` is `granted`; `outcome` is `stale` if the token
    must be refreshed first. `user_id` is the id of the user who was found or, if nobody was, the text by which the
    request named the user."""

    outcome: TokenOutcome
    client_id: UUID | None
    key_id: str | None
    user_id: str
    integration_id: UUID | None
    account: str | None
    status_reason: str | None
    granted_scopes: tuple[str, ...]
    token_version: int | None
    key_version: int | None
    expires_at: datetime | None
    remaining_seconds: float | None
    ciphertext: bytes | None


async def read_token(pool: DriverPool, query: TokenQuery, *, timeout_seconds: float) -> TokenReading:
    """Run the statement for one read, which also records the read unless the outcome is `stale` or `unauthenticated`.
    Raises TimeoutError if no connection is free in time, and ReadOnlySQLTransactionError if the server takes no writes.
    Then no token is returned, since the record is written in the same statement."""
    row = await fetch_row(
        pool,
        STATEMENT,
        query.key_id,
        query.secret_hash,
        query.user,
        query.default_issuer,
        query.provider,
        query.provider_known,
        json.dumps(query.scopes),
        query.account,
        query.reason,
        query.demanded_seconds,
        query.default_seconds,
        uuid7(),
        query.request_id,
        query.replaces,
        timeout_seconds=timeout_seconds,
    )
    return reading(cast("DriverRow", row))  # the statement always returns one row


def reading(row: DriverRow) -> TokenReading:
    """Turn one row of the door's answer into a TokenReading."""
    scopes = row["granted_scopes"]
    return TokenReading(
        outcome=TokenOutcome(row["outcome"]),
        client_id=row["client_id"],
        key_id=row["key_id"],
        user_id=row["user_id"],
        integration_id=row["integration_id"],
        account=row["provider_account_id"],
        status_reason=row["status_reason"],
        granted_scopes=tuple(json.loads(scopes)) if scopes else (),
        token_version=row["token_version"],
        key_version=row["key_version"],
        expires_at=row["expires_at"],
        remaining_seconds=row["remaining"],
        ciphertext=row["ciphertext"],
    )
