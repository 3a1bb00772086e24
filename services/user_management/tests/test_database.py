"""Tests of the answers to a caller when a statement fails, of the driver's pool, and of database URLs with several
hosts."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.conftest import Servers
from services.user_management.database import DriverPool, driver_url, fetch_row, role_of, sqlalchemy_url
from services.user_management.tests.races.conftest import until
from services.user_management.tests.scenes import Connected, assert_problem

GIVES_WAY = """
CREATE FUNCTION gives_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'given up for another transaction' USING ERRCODE = '{sqlstate}';
END $$;
CREATE TRIGGER gives_way BEFORE UPDATE ON integrations FOR EACH ROW EXECUTE FUNCTION gives_way();
"""


@pytest.fixture
async def victim(connected: Connected, sqlstate: str) -> AsyncIterator[Connected]:
    """An integration whose row cannot be updated: Postgres fails every UPDATE of a row of `integrations` with
    `sqlstate`."""
    owner: asyncpg.Connection[asyncpg.Record] = connected.journey.owner
    await owner.execute(GIVES_WAY.format(sqlstate=sqlstate))
    yield connected
    await owner.execute("DROP TRIGGER gives_way ON integrations; DROP FUNCTION gives_way")


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
async def test_transaction_that_gave_way_to_another_is_to_be_tried_again(victim: Connected) -> None:
    path = f"/users/me/integrations/{victim.provider}"

    response = await victim.journey.client.patch(path, headers=victim.headers, json={"metadata": {"label": "work"}})

    assert_problem(response, 503, "database_unavailable")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("sqlstate", ["P0001"])
async def test_statement_that_is_wrong_is_our_fault(victim: Connected) -> None:
    path = f"/users/me/integrations/{victim.provider}"

    response = await victim.journey.client.patch(path, headers=victim.headers, json={"metadata": {"label": "work"}})

    assert_problem(response, 500, "internal_error")


BACKEND = "SELECT pg_backend_pid() AS pid"
SLEEP = "SELECT pg_sleep(30)"


@pytest.fixture
async def pool(servers: Servers, database_name: str) -> AsyncIterator[DriverPool]:
    """A pool of at most one connection, so that one which is not given back is missed at once."""
    async with asyncpg.create_pool(driver_url(servers.url(database_name)), min_size=0, max_size=1) as opened:
        yield opened


async def backend(pool: DriverPool) -> int:
    """Return the process id of the Postgres process that serves the pool's connection. Raises TimeoutError if the pool
    has no connection left."""
    row = await fetch_row(pool, BACKEND, timeout_seconds=5)
    assert row is not None
    return int(row["pid"])


@pytest.fixture
async def superuser(servers: Servers) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(servers.superuser_url("postgres"))
    yield connection
    await connection.close()


async def begun(pool: DriverPool, superuser: "asyncpg.Connection[asyncpg.Record]", pid: int) -> asyncio.Task[object]:
    """Begin a statement that lasts 30 seconds, wait until Postgres runs it in the server process `pid`, and return its
    task."""
    task: asyncio.Task[object] = asyncio.create_task(fetch_row(pool, SLEEP, timeout_seconds=5))

    async def is_active() -> bool:
        return bool(await superuser.fetchval("SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", pid))

    await until(is_active)
    return task


async def test_connection_is_the_same_for_one_statement_after_the_other(pool: DriverPool) -> None:
    assert len({await backend(pool) for _ in range(3)}) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_statement_that_is_given_up_gives_its_connection_back(
    pool: DriverPool, superuser: "asyncpg.Connection[asyncpg.Record]", times: int
) -> None:
    task = await begun(pool, superuser, await backend(pool))

    for _ in range(times):  # the second time while the driver waits for Postgres to stop the statement
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await backend(pool) > 0


async def test_connection_that_is_lost_in_a_statement_is_replaced(
    pool: DriverPool, superuser: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    lost = await backend(pool)
    task = await begun(pool, superuser, lost)

    await superuser.execute("SELECT pg_terminate_backend($1)", lost)
    with pytest.raises(asyncpg.PostgresConnectionError):
        await task

    assert await backend(pool) != lost


async def test_connection_that_expires_in_a_statement_is_replaced(pool: DriverPool) -> None:
    expired = await backend(pool)
    task = asyncio.create_task(fetch_row(pool, "SELECT pg_sleep(0.05)", timeout_seconds=5))
    await asyncio.sleep(0)  # until it has the connection
    await pool.expire_connections()
    await task

    assert await backend(pool) != expired


ONE_FORM = "app:pw@/users?host=a%2Cb&port=5432%2C5433"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:pw@a,b:5433/users",
        "postgresql://app:pw@a:5432,b:5433/users",
        "postgresql://app:pw@/users?host=a:5432&host=b:5433",
        "postgresql://app:pw@/users?host=a,b&port=5432,5433",
    ],
)
def test_several_hosts_have_one_form_that_both_drivers_know(url: str) -> None:
    assert driver_url(url) == f"postgresql://{ONE_FORM}"
    assert sqlalchemy_url(url) == f"postgresql+asyncpg://{ONE_FORM}"
    assert role_of(url) == "app"
