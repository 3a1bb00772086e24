"""Tests of a failover of Postgres: a standby becomes the primary, the address moves to it, and the old primary comes
back as a standby."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import httpx
import pytest

from services.devstack.folders import scratch_folder
from services.devstack.main_job import MainJob, Person
from services.devstack.postgres import OWNER_ROLE, SUPERUSER, PostgresServer
from services.devstack.stack import Stack
from services.user_management.tests.races.conftest import until
from services.user_management.tests.races.moving_address import MovingAddress
from services.user_management.tests.scenes import assert_problem

pytestmark = pytest.mark.serial

PROVIDER: Final = "sandbox-static"
PER_SECOND: Final = 100
SETTINGS: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
LIMITS: Final = {"LIMITS_USER": "1000000/1", "LIMITS_ANONYMOUS": "1000000/1", "LIMITS_INTERNAL": "1000000/1"}


@dataclass(frozen=True, slots=True)
class Answer:
    kind: str
    status: int
    ended: float
    retry_after: str | None


@dataclass
class Failover:
    """A running service that reaches Postgres through an address that can be moved; the primary, and a standby that
    every commit waits for."""

    stack: Stack
    address: MovingAddress
    primary: PostgresServer
    standby: PostgresServer
    job: MainJob
    person: Person
    answers: list[Answer] = field(default_factory=list)

    async def ask(self, kind: str) -> httpx.Response:
        if kind == "read":
            return await self.job.client.get("/users/me", headers=self.person.headers)
        if kind == "write":
            body = {"first_name": f"Ada {time.monotonic_ns()}"}
            return await self.job.client.patch("/users/me", headers=self.person.headers, json=body)
        key = {"Authorization": f"Bearer {self.stack.service_key}"}
        return await self.job.get_token(key, self.person.id, PROVIDER)

    async def note(self, kind: str) -> None:
        response = await self.ask(kind)
        retry_after = response.headers.get("retry-after")
        self.answers.append(Answer(kind, response.status_code, time.monotonic(), retry_after))

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Within the block, send a hundred requests a second (reads, writes and token reads in turn), whether earlier
        ones are answered or not."""
        over = asyncio.Event()

        async def send() -> None:
            started = time.monotonic()
            async with asyncio.TaskGroup() as requests:
                for number, kind in enumerate(itertools.cycle(("read", "write", "token"))):
                    if over.is_set():
                        return
                    requests.create_task(self.note(kind))
                    await asyncio.sleep(max(0.0, started + (number + 1) / PER_SECOND - time.monotonic()))

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            over.set()
            await sending

    async def until_answered(self, *, seconds: float = 30) -> float:
        """Wait until, from now on, a request of each kind has been answered with 200. Returns the seconds that took."""
        started, seen = time.monotonic(), len(self.answers)

        async def all_kinds() -> bool:
            return len({answer.kind for answer in self.answers[seen:] if answer.status == 200}) == 3

        await until(all_kinds, seconds=seconds)
        return time.monotonic() - started

    async def until_refused(self, number: int) -> None:
        """Wait until at least `number` more answers have arrived and the last `number` are all 503."""
        seen = len(self.answers)

        async def enough() -> bool:
            return len(self.answers) >= seen + number and {one.status for one in self.answers[-number:]} == {503}

        await until(enough)

    async def readiness(self) -> tuple[int, str]:
        response = await self.job.client.get("/ready")
        return response.status_code, response.json()["database"]

    async def promote(self) -> None:
        connection = await asyncpg.connect(self.standby.url(role=SUPERUSER))
        assert await connection.fetchval("SELECT pg_promote()")
        await connection.close()

    async def recorded_writes(self) -> int:
        connection = await asyncpg.connect(self.standby.url(role=SUPERUSER))
        count = "SELECT count(*) FROM audit_logs WHERE action = 'user.updated' AND user_id = $1"
        found: int = await connection.fetchval(count, self.person.id)
        await connection.close()
        return found


async def _follow(primary: PostgresServer, standby: PostgresServer) -> None:
    """Start the standby and let every commit of the primary wait for it."""
    standby.start()
    connection = await asyncpg.connect(primary.url(role=SUPERUSER))
    await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await connection.execute("SELECT pg_reload_conf()")

    async def is_synchronous() -> bool:
        return bool(await connection.fetchval("SELECT sync_state = 'sync' FROM pg_stat_replication"))

    await until(is_synchronous)
    await connection.close()


@pytest.fixture
async def failover(request: pytest.FixtureRequest) -> AsyncIterator[Failover]:
    environment = {**LIMITS, **getattr(request, "param", {})}
    async with AsyncExitStack() as exits:
        folder = exits.enter_context(scratch_folder())
        primary = exits.enter_context(PostgresServer(folder / "primary", settings=SETTINGS))
        (folder / "address").mkdir()
        address = exits.enter_context(MovingAddress(folder / "address"))
        address.move(primary.socket_dir)
        urls = {"DATABASE_URL": address.url, "DATABASE_MIGRATION_URL": primary.url(role=OWNER_ROLE)}
        stack = exits.enter_context(Stack(folder / "data", processes=["web", "sandbox"], env={**environment, **urls}))
        standby = primary.copy(folder / "standby")
        exits.callback(standby.stop)
        await _follow(primary, standby)
        client, browser = [
            await exits.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30, trust_env=False))
            for url in (stack.api_url, stack.sandbox_url)
        ]
        job = MainJob(client, browser)
        person = await job.sign_up()
        await job.connect(person, PROVIDER)
        yield Failover(stack, address, primary, standby, job, person)


async def _fail_over(failover: Failover, *, seconds: float) -> float:
    """Under load, promote the standby, move the address to it and kill the former primary. Then start that as a
    standby, lead the address to it until requests are refused, and move the address back. Both times when the address
    leads to the new primary, wait until all kinds of requests succeed again; return the longer wait, in seconds.
    `seconds` is how long the load runs before the failover and after each wait."""
    async with failover.load():
        await failover.until_answered()
        await asyncio.sleep(seconds)  # of the load before anything happens
        await failover.promote()
        failover.address.move(failover.standby.socket_dir)
        failover.primary.kill()
        first = await failover.until_answered()
        await asyncio.sleep(seconds)

        failover.primary.demote()
        await asyncio.to_thread(failover.primary.start)
        failover.address.move(failover.primary.socket_dir)
        failover.address.cut()
        await failover.until_refused(PER_SECOND // 2)
        assert await failover.readiness() == (503, "unavailable")

        failover.address.move(failover.standby.socket_dir)
        second = await failover.until_answered()
        await asyncio.sleep(seconds)
    return max(first, second)


async def _judge(failover: Failover) -> None:
    statuses = Counter(answer.status for answer in failover.answers)
    written = sum(answer.kind == "write" and answer.status == 200 for answer in failover.answers)
    assert set(statuses) == {200, 503}
    assert {answer.retry_after for answer in failover.answers if answer.status == 503} == {"1"}
    assert await failover.recorded_writes() >= written


async def _become_a_standby(failover: Failover, kind: str) -> None:
    """Lead open connections to a standby, as a pooler does, and send a request of `kind`. Its refusal must make the
    service replace all connections, so that requests succeed at once when the address leads to the primary again."""
    for each in ("read", "write", "token"):
        assert (await failover.ask(each)).status_code == 200
    failover.address.move(failover.standby.socket_dir)
    failover.address.carry_over()

    refused = await failover.ask(kind)
    failover.address.move(failover.primary.socket_dir)
    after = [(await failover.ask(each)).status_code for each in ("token", "write", "read")]

    assert_problem(refused, 503, "database_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert after == [200, 200, 200]


# A server that takes over an open connection knows none of its prepared statements.
@pytest.mark.parametrize("failover", [{"DATABASE_STATEMENT_CACHE_SIZE": "0"}], indirect=True)
async def test_failover_costs_no_acknowledged_write(failover: Failover) -> None:
    await _become_a_standby(failover, "write")
    await _become_a_standby(failover, "token")
    await _fail_over(failover, seconds=0.5)

    await _judge(failover)
    assert await failover.readiness() == (200, "ok")


@pytest.mark.nightly
async def test_failover_under_load_for_half_a_minute(failover: Failover) -> None:
    longest = await _fail_over(failover, seconds=10)

    await _judge(failover)
    assert longest <= 10, "the promise of ADR 35, for a machine with nothing else to do"
