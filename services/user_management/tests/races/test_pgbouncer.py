"""The service behind Debian's pgbouncer in transaction mode, in which each transaction may get another session of
Postgres."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from services.devstack import process
from services.devstack.account import account_for
from services.devstack.child import Child
from services.devstack.folders import make_socket_folder, scratch_folder
from services.devstack.main_job import MainJob, Person
from services.devstack.postgres import OWNER_ROLE, RUNTIME_ROLE, PostgresServer, database_url
from services.devstack.server import SERVER_ENVIRONMENT, remove_folder
from services.devstack.stack import Stack
from services.user_management.database import BoundLater, sqlalchemy_url
from services.user_management.tests.races.conftest import until
from services.user_management.tests.races.moving_address import SOCKET

pytestmark = [pytest.mark.serial, pytest.mark.nightly]

PROGRAM: Final = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
CONFIGURATION: Final = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {sockets}
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 4
"""
ROUNDS: Final = 20
AT_ONCE: Final = 24


def _start(server: PostgresServer, folder: Path, sockets: Path) -> Child:
    assert PROGRAM, "pgbouncer is not installed: apt-get install pgbouncer"
    users = folder / "users.txt"
    users.write_text(f'"{RUNTIME_ROLE}" ""\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(server=server.socket_dir, sockets=sockets, users=users))
    account = account_for(server.data_dir)
    return process.spawn([PROGRAM, configuration], env=SERVER_ENVIRONMENT, account=account)


@dataclass
class Pooled:
    url: str
    stack: Stack
    job: MainJob
    person: Person

    async def read(self) -> int:
        return (await self.job.client.get("/users/me", headers=self.person.headers)).status_code

    async def write(self) -> int:
        body = {"first_name": "Augusta"}
        return (await self.job.client.patch("/users/me", headers=self.person.headers, json=body)).status_code

    async def token(self) -> int:
        key = {"Authorization": f"Bearer {self.stack.service_key}"}
        return (await self.job.get_token(key, self.person.id, "sandbox-static")).status_code

    async def list_accounts(self) -> int:
        return (await self.job.client.get("/users/me/integrations", headers=self.person.headers)).status_code


@pytest.fixture
async def pooled() -> AsyncIterator[Pooled]:
    async with AsyncExitStack() as exits:
        folder = exits.enter_context(scratch_folder())
        server = exits.enter_context(PostgresServer(folder / "postgres", settings={"fsync": "off"}))
        sockets = make_socket_folder(account_for(server.data_dir))
        exits.callback(remove_folder, sockets)
        bouncer = _start(server, folder, sockets)
        exits.callback(bouncer.kill)

        async def listens() -> bool:
            assert bouncer.returncode is None
            return (sockets / SOCKET).exists()

        await until(listens)
        url = database_url(sockets, role=RUNTIME_ROLE)
        environment = {
            "DATABASE_URL": url,
            "DATABASE_MIGRATION_URL": server.url(role=OWNER_ROLE),
            "DATABASE_STATEMENT_CACHE_SIZE": "0",
            "LIMITS_USER": "1000000/1",
            "LIMITS_INTERNAL": "1000000/1",
        }
        stack = exits.enter_context(Stack(folder / "data", processes=["web", "sandbox"], env=environment))
        client, browser = [
            await exits.enter_async_context(httpx.AsyncClient(base_url=each, timeout=30, trust_env=False))
            for each in (stack.api_url, stack.sandbox_url)
        ]
        job = MainJob(client, browser)
        person = await job.sign_up()
        await job.connect(person, "sandbox-static")
        yield Pooled(url, stack, job, person)


async def test_everything_works_behind_a_pooler_and_a_stray_write_is_refused(pooled: Pooled) -> None:
    statuses: Counter[int] = Counter()
    for _ in range(ROUNDS):
        kinds = [pooled.read, pooled.write, pooled.token, pooled.list_accounts] * (AT_ONCE // 4)
        statuses.update(await asyncio.gather(*(kind() for kind in kinds)))
    stray = BoundLater()
    stray.bind(sqlalchemy_url(pooled.url), connect_args={"statement_cache_size": 0, "prepared_statement_cache_size": 0})
    await stray.connect()

    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with stray.get_query_executor() as executor:
            await executor.execute(sa.text("DELETE FROM service_clients"))
    await stray.disconnect()

    assert statuses == {200: ROUNDS * AT_ONCE}
    assert (await pooled.job.client.get("/ready")).status_code == 200
