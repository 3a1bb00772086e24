"""Statements on integrations that are due for a check, on providers' health, and on integrations that lack a required
scope. A serving integration is one that can serve tokens: its status is `active` or `degraded`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import ProviderState

FIRST: Final = UUID(int=0)

_COLUMNS = """
i.id, i.token_version, i.user_id, i.provider, i.last_probed_at, i.status, i.status_reason, access.ciphertext,
access.key_version,
coalesce(access.expires_at <= now(), false) AS expired, coalesce(i.refresh_not_before > now(), false) AS cooling,
EXISTS (SELECT FROM encrypted_tokens r WHERE r.integration_id = i.id AND r.kind = 'refresh') AS has_refresh_token
"""
# Integrations of a provider that is not well are due too: their answers show when it has recovered.
_DUE = """
u.deleted_at IS NULL AND u.status = 'active' AND i.refresh_lease_until IS NULL
AND (i.status = 'degraded' OR access.expires_at IS NULL OR i.provider = ANY(:unwell)
     OR greatest(i.connected_at, i.last_refresh_at, i.last_checked_at) < now() - make_interval(secs => :idle_seconds))
"""
# The page is a fixed number of integrations, due or not, so that a statement costs the same however few of them are
# due.
_PAGE = """
WITH page AS MATERIALIZED (
    SELECT id, last_probed_at FROM integrations
    WHERE status IN ('active', 'degraded') AND {place} ORDER BY {order} LIMIT :page
), ends AS (
    SELECT id AS end_id, last_probed_at AS end_probed_at FROM page ORDER BY {reverse} LIMIT 1
)
SELECT ends.*, due.*
FROM ends LEFT JOIN (
    SELECT {columns}
    FROM page JOIN integrations i ON i.id = page.id
    JOIN users u ON u.id = i.user_id
    JOIN encrypted_tokens access ON access.integration_id = i.id AND access.kind = 'access'
    WHERE {due}
) AS due ON true
ORDER BY due.last_probed_at NULLS FIRST, due.id
"""
_NEVER_PROBED = sa.text(
    _PAGE.format(
        place="last_probed_at IS NULL AND id > :after_id",
        order="id",
        reverse="id DESC",
        columns=_COLUMNS,
        due=_DUE,
    )
).bindparams(sa.bindparam("unwell", type_=sa.ARRAY(sa.Text())))
_PROBED_BEFORE = sa.text(
    _PAGE.format(
        place="(last_probed_at, id) > (:after_probed_at, :after_id) AND last_probed_at < :began",
        order="last_probed_at, id",
        reverse="last_probed_at DESC, id DESC",
        columns=_COLUMNS,
        due=_DUE,
    )
).bindparams(sa.bindparam("unwell", type_=sa.ARRAY(sa.Text())))

_ONE_TEXT = """
SELECT {columns}
FROM integrations i
JOIN users u ON u.id = i.user_id AND u.deleted_at IS NULL AND u.status = 'active'
JOIN encrypted_tokens access ON access.integration_id = i.id AND access.kind = 'access'
WHERE i.id = :id AND i.status IN ('active', 'degraded')
"""
_ONE = sa.text(_ONE_TEXT.format(columns=_COLUMNS))

_PROBED = sa.text("UPDATE integrations SET last_probed_at = now() WHERE id = :id")

_ACCEPTED = sa.text("""
UPDATE integrations
SET last_checked_at = now(), updated_at = now(),
    failing_since = CASE WHEN :whole THEN NULL ELSE failing_since END,
    last_failure = CASE WHEN :whole THEN NULL ELSE last_failure END,
    last_failure_detail = CASE WHEN :whole THEN NULL ELSE last_failure_detail END,
    refresh_failures = CASE WHEN :whole THEN 0 ELSE refresh_failures END
WHERE id = :id AND token_version = :token_version AND status IN ('active', 'degraded')
""")

_REFUSED = sa.text("""
UPDATE integrations
SET failing_since = coalesce(failing_since, now()), last_failure = :failure, last_failure_detail = :detail,
    last_failure_at = now(), updated_at = now()
WHERE id = :id AND token_version = :token_version AND status IN ('active', 'degraded')
RETURNING extract(epoch FROM now() - failing_since)::float8 AS refused_seconds
""").bindparams(sa.bindparam("detail", type_=sa.Text()))

_STATES = sa.text("""
SELECT provider, state FROM provider_health WHERE provider = ANY(:providers)
""").bindparams(sa.bindparam("providers", type_=sa.ARRAY(sa.Text())))

_SET_STATE = sa.text("""
INSERT INTO provider_health AS h (provider, state, reason, since, checked_at)
VALUES (:provider, :state, :reason, now(), now())
ON CONFLICT (provider) DO UPDATE
SET state = excluded.state, reason = excluded.reason, checked_at = now(),
    since = CASE WHEN h.state = excluded.state THEN h.since ELSE now() END
""").bindparams(sa.bindparam("reason", type_=sa.Text()))

_REQUIRE = sa.text("""
INSERT INTO provider_health AS h (provider, state, since, checked_at, scopes_required_at)
VALUES (:provider, 'up', now(), now(),
        (SELECT coalesce(jsonb_object_agg(scope, now()), '{}') FROM unnest(:scopes) AS scope))
ON CONFLICT (provider) DO UPDATE
SET scopes_required_at = (
    SELECT coalesce(jsonb_object_agg(former.scope, former.required_at), '{}')
    FROM jsonb_each_text(coalesce(h.scopes_required_at, '{}')) AS former (scope, required_at)
    WHERE former.required_at::timestamptz > now() - make_interval(secs => :hold_seconds)
) || excluded.scopes_required_at
RETURNING enforced_scopes, ARRAY(SELECT jsonb_object_keys(scopes_required_at)) AS in_force
""").bindparams(sa.bindparam("scopes", type_=sa.ARRAY(sa.Text())))
_REQUIRE_TYPED = _REQUIRE.columns(enforced_scopes=sa.JSON)

_SET_ENFORCED = sa.text("""
UPDATE provider_health SET enforced_scopes = :scopes WHERE provider = :provider
""").bindparams(sa.bindparam("scopes", type_=sa.JSON()))

_OF_PROVIDER = sa.text("""
SELECT id, provider_account_id, token_version, status, granted_scopes, false AS for_a_time FROM integrations
WHERE provider = :provider AND (provider_account_id, id) > (:after_account, :after_id)
ORDER BY provider_account_id, id LIMIT :limit
""").columns(granted_scopes=sa.JSON)

_LACKING = sa.text("""
SELECT i.id, i.provider_account_id, i.token_version, i.status, i.granted_scopes,
       access.expires_at IS NOT NULL AND refresh.id IS NULL AS for_a_time
FROM integrations i
LEFT JOIN encrypted_tokens access ON access.integration_id = i.id AND access.kind = 'access'
LEFT JOIN encrypted_tokens refresh ON refresh.integration_id = i.id AND refresh.kind = 'refresh'
WHERE i.provider = :provider AND i.status_reason IN ('scope_upgrade', 'scope_missing') AND i.status = 'needs_reauth'
  AND i.id > :after_id
ORDER BY i.id LIMIT :limit
""").columns(granted_scopes=sa.JSON)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A serving integration of an active user, with its encrypted access token."""

    id: UUID
    token_version: int
    user_id: str
    provider: str
    last_probed_at: datetime | None
    status: str
    status_reason: str | None
    ciphertext: bytes
    key_version: int
    expired: bool
    cooling: bool
    """Whether a failure is so recent that the provider must not yet be asked for a refresh."""
    has_refresh_token: bool


@dataclass(frozen=True, slots=True)
class Place:
    """How far a walk over the serving integrations has come. The walk first visits those that no check has ever tried
    (probed), by id, and then the others, the one that was probed longest ago first."""

    probed_at: datetime | None = None
    id: UUID = FIRST


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the walk: the integrations that are due, and the place after all that it looked at. `end` is None if
    nothing is left in this part of the walk (never probed, or probed before)."""

    due: list[Candidate]
    end: Place | None


@dataclass(frozen=True, slots=True)
class Requirement:
    """Scopes that are required of a provider's integrations."""

    in_force: tuple[str, ...]
    """The scopes that any process required within the last `hold_seconds` of `require`."""
    enforced: tuple[str, ...] | None
    """The scopes against which all integrations were last checked; None if they never were."""


@dataclass(frozen=True, slots=True)
class Holder:
    """An integration, with the scopes that its user granted."""

    id: UUID
    account_id: str
    token_version: int
    is_serving: bool
    granted_scopes: tuple[str, ...]
    for_a_time: bool
    """Whether the access token runs out and there is no refresh token. Always False in what `holders` returns."""


async def due_page(
    connection: AsyncConnection,
    *,
    after: Place,
    began: datetime,
    unwell: Sequence[str],
    idle_seconds: float,
    page: int,
) -> Page:
    """Walk over the next `page` serving integrations after the place `after`, and return those that are due for a
    check.

    Due are those that are degraded, whose access token does not run out, or that were neither connected, refreshed nor
    accepted by a check for `idle_seconds`; at the providers `unwell`, whose recovery is looked for, all. Left out are
    integrations without an access token, and those that were probed since the walk `began`, that have a lease of a
    refresh, or whose user is deleted or not active.
    """
    parameters: dict[str, Any] = {
        "after_id": after.id,
        "unwell": list(unwell),
        "idle_seconds": idle_seconds,
        "page": page,
    }
    if after.probed_at is None:
        rows = (await connection.execute(_NEVER_PROBED, parameters)).all()
    else:
        parameters |= {"after_probed_at": after.probed_at, "began": began}
        rows = (await connection.execute(_PROBED_BEFORE, parameters)).all()
    if not rows:
        return Page([], None)
    due = [_candidate(row) for row in rows if row.id is not None]
    return Page(due, Place(rows[0].end_probed_at, rows[0].end_id))


async def find_candidate(connection: AsyncConnection, integration_id: UUID) -> Candidate | None:
    """Read one integration; None if it is not serving, has no access token, or its user is deleted or not active."""
    row = (await connection.execute(_ONE, {"id": integration_id})).one_or_none()
    return None if row is None else _candidate(row)


def _candidate(row: sa.Row[Any]) -> Candidate:
    return Candidate(*(getattr(row, name) for name in Candidate.__slots__))


async def note_probed(connection: AsyncConnection, integration_id: UUID) -> None:
    """Record that a check tries this integration now; whatever the check finds, the integration goes to the end of the
    walk."""
    await connection.execute(_PROBED, {"id": integration_id})


async def note_accepted(connection: AsyncConnection, held: Candidate, *, whole: bool) -> None:
    """Record that the provider accepted the access token. `whole`: nothing at all is wrong with the integration, and
    its recorded failures are cleared. Nothing changes if its tokens are new by now (the fence `token_version` has
    moved), or it no longer serves."""
    parameters = {"id": held.id, "token_version": held.token_version, "whole": whole}
    await connection.execute(_ACCEPTED, parameters)


async def note_refused(connection: AsyncConnection, held: Candidate, *, failure: str, detail: str | None) -> float:
    """Record that the provider refused the access token, and return for how many seconds the integration has been
    failing. Returns 0, and records nothing, if its tokens are new by now (the fence `token_version` has moved), or it
    no longer serves."""
    parameters = {"id": held.id, "token_version": held.token_version, "failure": failure, "detail": detail}
    row = (await connection.execute(_REFUSED, parameters)).one_or_none()
    return 0.0 if row is None else float(row.refused_seconds)


async def read_states(connection: AsyncConnection, providers: Iterable[str]) -> dict[str, ProviderState]:
    """Return the states of these providers, as last written; providers for which neither `set_state` nor `require` was
    ever called are left out."""
    rows = await connection.execute(_STATES, {"providers": list(providers)})
    return {row.provider: ProviderState(row.state) for row in rows}


async def set_state(connection: AsyncConnection, provider: str, state: ProviderState, *, reason: str | None) -> None:
    """Write the state in which the check has found a provider. The time since when it is in this state changes only if
    the state changes."""
    await connection.execute(_SET_STATE, {"provider": provider, "state": state.value, "reason": reason})


async def require(
    connection: AsyncConnection, provider: str, scopes: Sequence[str], *, hold_seconds: float
) -> Requirement:
    """Record that this process requires `scopes` of the provider's integrations now. Returns what is in force: these
    scopes, and those that any process required within `hold_seconds`. A provider without a recorded state is recorded
    as up."""
    parameters = {"provider": provider, "scopes": list(scopes), "hold_seconds": hold_seconds}
    row = (await connection.execute(_REQUIRE_TYPED, parameters)).one()
    enforced = None if row.enforced_scopes is None else tuple(row.enforced_scopes)
    return Requirement(tuple(sorted(row.in_force)), enforced)


async def set_enforced(connection: AsyncConnection, provider: str, scopes: Sequence[str]) -> None:
    """Record that all integrations of the provider have been checked against `scopes`."""
    await connection.execute(_SET_ENFORCED, {"provider": provider, "scopes": list(scopes)})


async def holders(connection: AsyncConnection, provider: str, *, after: tuple[str, UUID], limit: int) -> list[Holder]:
    """List the next `limit` integrations of a provider, whatever their status, in the order of (account id, id),
    beginning after the pair `after`."""
    parameters = {"provider": provider, "after_account": after[0], "after_id": after[1], "limit": limit}
    return [_holder(row) for row in await connection.execute(_OF_PROVIDER, parameters)]


async def lacking(connection: AsyncConnection, provider: str, *, after: UUID, limit: int) -> list[Holder]:
    """List the next `limit` integrations of a provider that need their users because they lack a required scope, in the
    order of their ids, beginning after the id `after`."""
    parameters = {"provider": provider, "after_id": after, "limit": limit}
    return [_holder(row) for row in await connection.execute(_LACKING, parameters)]


def _holder(row: sa.Row[Any]) -> Holder:
    return Holder(
        id=row.id,
        account_id=row.provider_account_id,
        token_version=row.token_version,
        is_serving=row.status in {"active", "degraded"},
        granted_scopes=tuple(row.granted_scopes),
        for_a_time=row.for_a_time,
    )
