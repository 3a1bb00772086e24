"""A fleet of real processes for tests: two copies of the API, a worker, a beat and the sandbox, over a Postgres and a
Valkey of their own."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import httpx
import pytest

from services.devstack.folders import scratch_folder
from services.devstack.main_job import MainJob, expect
from services.devstack.postgres import SUPERUSER
from services.devstack.stack import Stack
from services.user_management.enums import JobName

ADMIN_USER_ID = "user_fleetAdmin"
SLOTS_ARE_DONE = """
INSERT INTO job_runs (id, job, slot, owner, lease_until, attempts, started_at, finished_at)
SELECT gen_random_uuid(), $1, date_bin($2, now(), 'epoch') + $2 * number, gen_random_uuid(), now(), 1, now(), now()
FROM generate_series(0, 1) AS number
ON CONFLICT (job, slot) DO UPDATE SET finished_at = now()
"""


@dataclass
class Fleet:
    """A running stack with a client for each copy of the API, and the database at hand."""

    stack: Stack
    jobs: list[MainJob]
    database: "asyncpg.Connection[asyncpg.Record]"

    @property
    def key(self) -> dict[str, str]:
        """Return the headers with the key of the development service, which may read tokens of every sandbox
        provider."""
        return {"Authorization": f"Bearer {self.stack.service_key}"}

    async def admin(self) -> dict[str, str]:
        """Return the headers of a new session of an administrator, good for a minute."""
        return await self.jobs[0].session(ADMIN_USER_ID)

    async def run_out(self, user_id: str) -> None:
        """Make the user's access tokens expire."""
        await self.database.execute(
            "UPDATE encrypted_tokens"
            " SET expires_at = now() - interval '1 second', issued_at = now() - interval '1 hour'"
            " WHERE kind = 'access' AND integration_id IN (SELECT id FROM integrations WHERE user_id = $1)",
            user_id,
        )

    async def end_leases(self) -> None:
        """Make every refresh lease expire now, for which a test would have to wait half a minute."""
        await self.database.execute(
            "UPDATE integrations SET refresh_lease_until = now() - interval '1 second'"
            " WHERE refresh_lease_until IS NOT NULL"
        )


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Wait until `condition` returns true. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        for pause in itertools.repeat(0.02):
            if await condition():
                return
            await asyncio.sleep(pause)


@pytest.fixture(scope="session")
def fleet_stack() -> Iterator[Stack]:
    environment = {"DRAIN_DELAY_SECONDS": "2", "ADMIN_USER_IDS": ADMIN_USER_ID}
    with scratch_folder() as folder, Stack(folder / "data", web_count=2, env=environment) as stack:
        # The administrator must exist at Clerk too, or the reconcile job would delete them.
        admin = httpx.post(
            f"{stack.sandbox_url}/clerk/_control/users", json={"user_id": ADMIN_USER_ID}, trust_env=False
        )
        expect(admin, 201)
        yield stack


@pytest.fixture
async def fleet(fleet_stack: Stack) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as exits:
        limits = httpx.Limits(max_connections=250)
        browser = await exits.enter_async_context(
            httpx.AsyncClient(base_url=fleet_stack.sandbox_url, timeout=30, trust_env=False)
        )
        clients = [
            await exits.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30, limits=limits, trust_env=False))
            for url in fleet_stack.api_urls
        ]
        await browser.delete("/_faults")
        await browser.delete("/_ledger")
        database = await asyncpg.connect(fleet_stack.postgres.url(role=SUPERUSER))
        exits.push_async_callback(database.close)
        # The refresh job and the check of integrations would refresh expired tokens, among them those of earlier tests,
        # before the callers that a test is about. So their present slots and the next ones are marked as done.
        for job in (JobName.REFRESH_DUE_TOKENS, JobName.CHECK_INTEGRATIONS):
            await database.execute(SLOTS_ARE_DONE, job.value, timedelta(minutes=15))
        # Likewise the daily reconcile job: it would delete users of whom a test's own sender told the service, since
        # the sandbox's Clerk does not know them.
        await database.execute(SLOTS_ARE_DONE, JobName.RECONCILE_CLERK.value, timedelta(days=1))
        yield Fleet(fleet_stack, [MainJob(client, browser) for client in clients], database)
