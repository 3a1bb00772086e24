"""The real Postgres and Valkey: they start as our own children, come back with their data after a kill, refuse data
that is in use, and leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.devstack import process
from services.devstack.account import account_for
from services.devstack.errors import AlreadyInUseError, DevstackError
from services.devstack.postgres import OWNER_ROLE, RUNTIME_ROLE, SUPERUSER, PostgresServer
from services.devstack.tests.processes import alive, eventually
from services.devstack.valkey import ValkeyServer

pytestmark = pytest.mark.serial
REPOSITORY = Path(__file__).resolve().parents[3]
FAST = {"fsync": "off"}
_OWNER = """
import sys
from pathlib import Path
from services.devstack.postgres import PostgresServer
from services.devstack.valkey import ValkeyServer
postgres, valkey = PostgresServer(Path(sys.argv[1]) / "postgres"), ValkeyServer(Path(sys.argv[1]) / "valkey")
postgres.start()
valkey.start()
print(postgres.pid, valkey.pid, postgres.socket_dir, valkey.socket_dir, flush=True)
sys.stdin.read()
"""


def _sql(server: PostgresServer, statement: str, *, role: str = OWNER_ROLE) -> str:
    command = [str(server.bin_dir / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", server.url(role=role), "-c", statement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return finished.stdout.strip() if finished.returncode == 0 else finished.stderr.strip()


def test_postgres_answers_as_our_own_child(scratch: Path) -> None:
    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        stated = int((scratch / "postgres" / "postmaster.pid").read_text().splitlines()[0])

        assert stated == server.pid
        assert _sql(server, "SHOW listen_addresses") == ""
        assert _sql(server, "SHOW fsync") == "off"
        assert _sql(server, "SHOW server_encoding") == "UTF8"


def test_postgres_roles_have_what_they_need_and_no_more(scratch: Path) -> None:
    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        powers = "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname ~ '^user' ORDER BY 1"
        rows = _sql(server, powers)

        assert rows == f"{RUNTIME_ROLE}|f|f|f\n{OWNER_ROLE}|f|f|f"
        assert _sql(server, "CREATE TABLE mine ()") == ""
        assert "permission denied" in _sql(server, "CREATE TABLE mine_too ()", role=RUNTIME_ROLE)
        assert _sql(server, "SHOW is_superuser", role=SUPERUSER) == "on"


def test_postgres_keeps_data_over_a_restart(scratch: Path) -> None:
    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        _sql(server, "CREATE TABLE kept AS SELECT 7 AS number")

    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        assert _sql(server, "SELECT number FROM kept") == "7"


def test_postgres_killed_with_connections_open_starts_again_at_its_address(scratch: Path) -> None:
    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        url = server.url(role=OWNER_ROLE)
        with subprocess.Popen(
            [server.bin_dir / "psql", url, "-c", "SELECT pg_sleep(600)"], stderr=subprocess.DEVNULL
        ) as client:
            assert eventually(lambda: "pg_sleep(600)" in _sql(server, "SELECT query FROM pg_stat_activity"))
            os.kill(server.pid, signal.SIGKILL)
            server.child.wait()

            server.start()

            client.wait()
        assert server.url(role=OWNER_ROLE) == url
        assert _sql(server, "SELECT 1") == "1"


def test_postgres_stopped_leaves_no_process_and_no_socket(scratch: Path) -> None:
    server = PostgresServer(scratch / "postgres", settings=FAST)
    server.start()
    pid = server.pid

    server.stop()

    assert not alive([pid])
    assert not server.socket_dir.exists()


def test_postgres_data_in_use_is_refused(scratch: Path) -> None:
    with (
        PostgresServer(scratch / "postgres", settings=FAST),
        pytest.raises(AlreadyInUseError, match="in use by another run"),
    ):
        PostgresServer(scratch / "postgres").start()


def test_postgres_with_a_stale_pid_file_of_a_living_process_starts(scratch: Path) -> None:
    # After a reboot, or in a container, the pid of a killed postmaster soon belongs to somebody else.
    with PostgresServer(scratch / "postgres", settings=FAST):
        pass
    somebody = process.spawn(["sleep", "600"], env=os.environ, account=account_for(scratch / "postgres"))
    assert eventually(lambda: Path(f"/proc/{somebody.pid}/comm").read_text() == "sleep\n")
    (scratch / "postgres" / "postmaster.pid").write_text(f"{somebody.pid}\n")

    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        assert _sql(server, "SELECT 1") == "1"

    somebody.stop(signal.SIGKILL, timeout=5)


def test_postgres_after_an_interrupted_initdb_starts(scratch: Path) -> None:
    unfinished = scratch / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")

    with PostgresServer(scratch / "postgres", settings=FAST) as server:
        assert _sql(server, "SELECT 1") == "1"

    assert not unfinished.exists()


def test_postgres_that_refuses_its_configuration_says_why(scratch: Path) -> None:
    server = PostgresServer(scratch / "postgres", settings={**FAST, "shared_buffers": "nonsense"})

    with pytest.raises(DevstackError, match="shared_buffers"):
        server.start()


def test_postgres_in_a_folder_of_something_else_is_refused(scratch: Path) -> None:
    folder = scratch / "postgres"
    folder.mkdir()
    (folder / "thesis.txt").write_text("42")

    with pytest.raises(DevstackError, match="is not a Postgres data directory"):
        PostgresServer(folder, settings=FAST).start()

    assert (folder / "thesis.txt").read_text() == "42"


async def test_postgres_started_in_a_thread_of_a_loop_stays(scratch: Path) -> None:
    server = PostgresServer(scratch / "postgres", settings=FAST)
    await asyncio.to_thread(server.start)

    await asyncio.sleep(0.1)

    assert _sql(server, "SELECT 1") == "1"
    await asyncio.to_thread(server.stop)


def test_servers_of_a_killed_owner_die_and_start_again(scratch: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, scratch],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        postgres, valkey, *sockets = owner.stdout.readline().split()
        owner.kill()
        owner.wait()

        with PostgresServer(scratch / "postgres") as server, ValkeyServer(scratch / "valkey"):
            assert _sql(server, "SELECT 1") == "1"

    assert not alive([int(postgres), int(valkey)])
    for folder in map(Path, sockets):
        assert list(folder.iterdir()) == []
        folder.rmdir()


def test_valkey_keeps_data_over_a_kill_and_a_restart(scratch: Path) -> None:
    server = ValkeyServer(scratch / "valkey", settings={"appendfsync": "always"})
    server.start()
    url = server.url()
    server.ask("SET a 1\r\nQUIT\r\n")
    os.kill(server.pid, signal.SIGKILL)
    server.child.wait()

    server.start()

    answer = server.ask("GET a\r\nQUIT\r\n")
    server.stop()
    assert answer.splitlines()[:2] == ["$1", "1"]
    assert url.startswith("unix:///tmp/ums-")
    assert not server.socket_dir.exists()


def test_valkey_data_in_use_is_refused(scratch: Path) -> None:
    with ValkeyServer(scratch / "valkey"), pytest.raises(AlreadyInUseError):
        ValkeyServer(scratch / "valkey").start()


def test_valkey_that_refuses_its_configuration_says_so(scratch: Path) -> None:
    server = ValkeyServer(scratch / "valkey", settings={"maxmemory": "nonsense"})

    with pytest.raises(DevstackError, match="Valkey ended while starting"):
        server.start()
