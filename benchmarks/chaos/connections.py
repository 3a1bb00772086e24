"""The integrations that the chaos run harms (in its code: connections), and the SQL by which it reads and changes their
rows and those of job runs, bypassing the service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.devstack.postgres import SUPERUSER
from services.devstack.stack import Stack
from services.sandbox.providers import Kind, provider_name
from services.user_management.enums import JobName

_CONNECTIONS: Final = """
SELECT id, user_id, provider, provider_account_id, token_version FROM integrations
WHERE provider_account_id = ANY($1) ORDER BY user_id
"""
# Expired, so that a reader refreshes it; issued within this quarter of an hour, so that the refresh job does not.
_RUN_OUT: Final = """
UPDATE encrypted_tokens
SET expires_at = now() - interval '1 second', issued_at = date_bin('15 minutes', now(), 'epoch')
WHERE kind = 'access' AND integration_id = ANY($1)
"""
_MAKE_DUE: Final = """
UPDATE encrypted_tokens
SET expires_at = now() - interval '1 second', issued_at = now() - interval '90 minutes'
WHERE kind = 'access' AND integration_id = ANY($1)
"""
_PUT_OFF: Final = """
UPDATE encrypted_tokens SET expires_at = now() + interval '1 day' WHERE kind = 'access' AND integration_id = $1
"""
_STATES: Final = """
SELECT i.id, i.status, i.status_reason, i.token_version,
       (SELECT min(a.occurred_at) FROM audit_logs a
        WHERE a.target_id = i.id::text AND a.action = 'integration.needs_reauth') AS flagged_at,
       CASE WHEN i.status = 'needs_reauth' AND i.status_reason = 'refresh_interrupted' THEN
           (SELECT count(*) FROM integrations o
            WHERE o.provider = i.provider AND o.status = i.status AND o.status_reason = i.status_reason
              AND o.status_changed_at <= i.status_changed_at) END AS interrupted_number
FROM integrations i WHERE i.id = ANY($1)
"""
_CLOCK_ERRORS: Final = """
SELECT i.id, abs(extract(epoch FROM max(a.occurred_at) - i.last_refresh_at))::float8 AS seconds
FROM integrations i
JOIN audit_logs a ON a.target_id = i.id::text AND a.action = 'integration.token_refreshed'
WHERE i.id = ANY($1) GROUP BY i.id
"""
_UNSETTLED: Final = """
SELECT count(*) FROM integrations
WHERE id = ANY($1) AND status IN ('active', 'degraded') AND (refresh_attempts > 0 OR refresh_lease_until > now())
"""
_END_COOL_DOWN: Final = "UPDATE integrations SET refresh_not_before = NULL WHERE id = ANY($1)"
_END_LEASES: Final = """
UPDATE integrations SET refresh_lease_until = now() - interval '1 second'
WHERE id = ANY($1) AND refresh_lease_until IS NOT NULL
"""
_LEAVE_UNSETTLED: Final = """
UPDATE integrations SET refresh_attempts = 1, refresh_lease_until = NULL, refresh_not_before = NULL WHERE id = $1
"""
_MARK_SLOTS_DONE: Final = """
INSERT INTO job_runs (id, job, slot, owner, lease_until, attempts, started_at, finished_at)
SELECT gen_random_uuid(), $1, date_bin($2, now(), 'epoch') + $2 * number, gen_random_uuid(), now(), 1, now(), now()
FROM generate_series(0, 200) AS number
ON CONFLICT (job, slot) DO UPDATE SET finished_at = now()
"""
_FREE_SLOT: Final = "DELETE FROM job_runs WHERE job = $1 AND slot <= now()"
_DONE_SLOTS: Final = "SELECT count(*) FROM job_runs WHERE job = $1 AND finished_at IS NOT NULL AND slot <= now()"


@dataclass(frozen=True, slots=True)
class Connection:
    """One user's integration at the sandbox's provider of the kind `kind`, as its row was when it was read."""

    id: UUID
    user_id: str
    kind: Kind
    account: str
    """Id of the account at the provider."""
    token_version: int
    """Version of the tokens when the row was read; each refresh that is stored adds one."""


@dataclass(frozen=True, slots=True)
class State:
    """What Postgres holds about an integration at one moment."""

    status: str
    reason: str | None
    token_version: int
    flagged_at: datetime | None
    """When, by the audit log, the integration first became `needs_reauth`; None if it never did."""
    interrupted_number: int | None = None
    """The integration's rank, counted from 1 for the earliest, among those of its provider that have become
    `needs_reauth` because of `refresh_interrupted`; None if it is not one of them."""


async def open_pool(stack: Stack) -> "asyncpg.Pool[asyncpg.Record]":
    """Return a pool of connections to the stack's Postgres as superuser, who sees every row; the caller closes it."""
    return await asyncpg.create_pool(stack.postgres.url(role=SUPERUSER), min_size=0, max_size=4, command_timeout=30)


class Rows:
    """Reads and changes integrations, their tokens and the records of job runs by SQL, without the service."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def connections(self, accounts: Sequence[str], kinds: Mapping[str, Kind]) -> list[Connection]:
        """Return the integrations of the provider accounts with the ids `accounts`, at all providers, in order of the
        users' ids; `kinds` gives the kind by provider name."""
        return [
            Connection(
                row["id"], row["user_id"], kinds[row["provider"]], row["provider_account_id"], row["token_version"]
            )
            for row in await self._pool.fetch(_CONNECTIONS, list(accounts))
        ]

    async def run_out(self, *connections: Connection) -> None:
        """Make the access tokens expire in such a way that a read refreshes them and the refresh job, in the present
        quarter of an hour, does not."""
        await self._pool.execute(_RUN_OUT, _ids(connections))

    async def make_due(self, *connections: Connection) -> None:
        """Make the access tokens expire in such a way that the next run of the refresh job renews them."""
        await self._pool.execute(_MAKE_DUE, _ids(connections))

    async def put_off(self, connection: Connection) -> None:
        """Make the access token expire in a day, so that the refresh job leaves it alone."""
        await self._pool.execute(_PUT_OFF, connection.id)

    async def end_cool_downs(self, *connections: Connection) -> None:
        """Allow the next refresh at once, by removing `refresh_not_before`."""
        await self._pool.execute(_END_COOL_DOWN, _ids(connections))

    async def end_leases(self, *connections: Connection) -> None:
        """End the leases (each the right of one process to refresh) without their holders' knowledge, as if their time
        had run out."""
        await self._pool.execute(_END_LEASES, _ids(connections))

    async def leave_unsettled(self, connection: Connection) -> None:
        """Give the integration a refresh whose outcome is unknown: count one attempt, and remove the lease and the wait
        before the next one, as if a process had been killed before it called the provider and its lease had ended. The
        job SWEEP_LEASES will repeat the refresh."""
        await self._pool.execute(_LEAVE_UNSETTLED, connection.id)

    async def states(self, connections: Iterable[Connection]) -> dict[UUID, State]:
        """Return the present state of each integration, by its id."""
        return {
            row["id"]: State(
                row["status"], row["status_reason"], row["token_version"], row["flagged_at"], row["interrupted_number"]
            )
            for row in await self._pool.fetch(_STATES, _ids(connections))
        }

    async def clock_errors(self, connections: Iterable[Connection]) -> dict[UUID, float]:
        """Return, by integration id, the seconds between the time of the last refresh in the audit log, set by the
        process that did it, and `last_refresh_at`, set by the database. Integrations without a refresh are left
        out."""
        return {row["id"]: row["seconds"] for row in await self._pool.fetch(_CLOCK_ERRORS, _ids(connections))}

    async def count_unsettled(self, connections: Iterable[Connection]) -> int:
        """Count the integrations that are `active` or `degraded` and have a refresh that is under way or whose outcome
        is unknown."""
        return int(await self._pool.fetchval(_UNSETTLED, _ids(connections)))

    async def mark_slots_done(self, job: JobName, period: timedelta) -> None:
        """Mark the job, which is due once in every `period`, as done in the present one and in the next 200, so that no
        order by beat runs it."""
        await self._pool.execute(_MARK_SLOTS_DONE, job.value, period)

    async def free_slot(self, job: JobName) -> None:
        """Delete the records of the job's runs in the present period and in earlier ones, so that the next order for
        the job runs it."""
        await self._pool.execute(_FREE_SLOT, job.value)

    async def slot_is_done(self, job: JobName) -> bool:
        """Tell whether the job has finished a run since `free_slot` deleted the records of earlier ones."""
        return bool(await self._pool.fetchval(_DONE_SLOTS, job.value))

    async def fetch_value(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row that the query returns; None if there is no row."""
        return await self._pool.fetchval(sql, *arguments)


def kinds_by_provider(kinds: Sequence[Kind]) -> dict[str, Kind]:
    """Return each of `kinds` under the name of its provider."""
    return {provider_name(kind): kind for kind in kinds}


def _ids(connections: Iterable[Connection]) -> list[UUID]:
    return [connection.id for connection in connections]
