"""The stack, with stand-ins for the processes of the service, over real servers or none."""

import http.client
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from services.devstack.errors import AlreadyInUseError, DevstackError
from services.devstack.preparation import Recipe
from services.devstack.stack import Stack
from services.devstack.tests.fake_recipe import fake_command, fake_recipe, write_procfile
from services.devstack.tests.processes import alive, descendants

pytestmark = pytest.mark.serial
# Addresses that nobody connects to: with them the stack starts no servers of its own, and is up at once.
NO_SERVERS = {"DATABASE_URL": "postgresql://elsewhere/x", "REDIS_URL": "redis://elsewhere"}


def _stack(scratch: Path, *roles: str, web_count: int = 1, env: dict[str, str] | None = None) -> Stack:
    recipe = fake_recipe(scratch, *roles)
    return Stack(scratch / "data", processes=roles, web_count=web_count, env=env or {}, recipe=recipe)


@pytest.fixture(autouse=True)
def _no_foreign_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


def _status(url: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status
    finally:
        connection.close()


def test_stack_with_servers_stops_to_nothing(scratch: Path) -> None:
    with _stack(scratch, "web", "worker") as stack:
        pids = descendants(os.getpid())
        sockets = [stack.postgres.socket_dir, stack.valkey.socket_dir]

        assert _status(stack.api_url) == 200
        assert stack.environment["DATABASE_URL"] == stack.postgres.url(role="user_management")
        assert stack.environment["REDIS_URL"] == stack.valkey.url()
        assert {stack.process(name).pid for name in ("web", "worker", "postgres", "valkey")} < pids

    assert not alive(pids)
    assert not any(folder.exists() for folder in sockets)


def test_stack_with_foreign_servers_starts_none(scratch: Path) -> None:
    with _stack(scratch, "worker", env=NO_SERVERS) as stack:
        assert stack.environment["DATABASE_MIGRATION_URL"] == NO_SERVERS["DATABASE_URL"]
        with pytest.raises(DevstackError, match="DATABASE_URL"):
            _ = stack.postgres
        with pytest.raises(DevstackError, match="there is no process 'valkey'; there are worker"):
            stack.process("valkey")


def test_stack_copies_of_web_listen_on_consecutive_ports(scratch: Path) -> None:
    with _stack(scratch, "web", web_count=2, env=NO_SERVERS) as stack:
        first, second = (int(url.rpartition(":")[2]) for url in stack.api_urls)

        assert second == first + 1
        assert [_status(url) for url in stack.api_urls] == [200, 200]
        assert stack.process("web").pid != stack.process("web-2").pid


def test_stack_process_killed_on_purpose_can_be_started_again(scratch: Path) -> None:
    with _stack(scratch, "web", "worker", env=NO_SERVERS) as stack:
        before = stack.process("web").pid

        stack.restart("web")

        assert stack.process("web").pid != before
        assert not alive([before])
        assert _status(stack.api_url) == 200


def test_stack_server_killed_on_purpose_comes_back_at_its_address(scratch: Path) -> None:
    with _stack(scratch, "worker") as stack:
        before = stack.postgres

        stack.restart("postgres")

        assert stack.postgres.socket_dir == before.socket_dir
        assert stack.postgres.pid != before.pid


def test_stack_order_about_an_unknown_process_is_refused(scratch: Path) -> None:
    with _stack(scratch, "worker", env=NO_SERVERS) as stack, pytest.raises(DevstackError, match="no process 'wrker'"):
        stack.kill("wrker")


def test_stack_child_that_ends_by_itself_is_named(scratch: Path) -> None:
    with (
        _stack(scratch, "worker", "crash", env=NO_SERVERS) as stack,
        pytest.raises(DevstackError, match="crash ended unexpectedly: exit status 1: out of cheese"),
    ):
        stack.wait()


def test_stack_child_killed_by_somebody_else_is_named(scratch: Path) -> None:
    with _stack(scratch, "worker", env=NO_SERVERS) as stack:
        os.kill(stack.process("worker").pid, signal.SIGKILL)

        with pytest.raises(DevstackError, match="worker ended unexpectedly: killed by SIGKILL"):
            stack.wait()


def test_stack_whose_keeper_is_killed_leaves_nothing(scratch: Path) -> None:
    stack = _stack(scratch, "web", "worker")
    stack.start()
    pids = descendants(os.getpid())
    sockets = [stack.postgres.socket_dir, stack.valkey.socket_dir]

    os.kill(stack.keeper_pid, signal.SIGKILL)

    with pytest.raises(DevstackError, match="killed by SIGKILL"):
        stack.wait()
    stack.stop()
    assert not any(folder.exists() for folder in sockets)
    # The stand-in's own child has no PR_SET_PDEATHSIG; Celery's pool processes have.
    orphans = alive(pids)
    assert all(Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"worker\0") for pid in orphans)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)


def test_stack_data_dir_in_use_is_refused(scratch: Path) -> None:
    with (
        _stack(scratch, "worker", env=NO_SERVERS),
        pytest.raises(AlreadyInUseError, match="is in use by another run: set DATA_DIR"),
    ):
        _stack(scratch, "worker", env=NO_SERVERS).start()


def test_stack_two_at_once_do_not_interfere(scratch: Path) -> None:
    recipe = fake_recipe(scratch, "web")
    with (
        Stack(scratch / "one", processes=["web"], recipe=recipe) as one,
        Stack(scratch / "two", processes=["web"], recipe=recipe) as two,
    ):
        assert _status(one.api_url) == _status(two.api_url) == 200
        assert one.postgres.pid != two.postgres.pid


def test_stack_output_is_in_the_log(scratch: Path) -> None:
    with _stack(scratch, "worker", env=NO_SERVERS) as stack:
        assert stack.log_path("worker").read_text() == "worker.started\n"


def test_stack_process_that_does_not_exist_is_refused(scratch: Path) -> None:
    recipe = fake_recipe(scratch, "worker")

    with pytest.raises(DevstackError, match="Procfile has no process 'web'"):
        Stack(scratch / "data", processes=["web"], env=NO_SERVERS, recipe=recipe).start()


def test_stack_command_that_does_not_exist_is_named(scratch: Path) -> None:
    (scratch / "Procfile").write_text("ghost: /nowhere/at-all\n")
    recipe = Recipe(procfile=scratch / "Procfile", cli=())

    with (
        pytest.raises(DevstackError, match="ghost ended unexpectedly: exit status 127: /nowhere/at-all: No such file"),
        Stack(scratch / "data", processes=["ghost"], env=NO_SERVERS, recipe=recipe) as stack,
    ):
        stack.wait()


def test_stack_key_is_made_once_and_granted_every_provider(scratch: Path) -> None:
    calls = scratch / "calls"
    recipe = Recipe(procfile=write_procfile(scratch, "worker"), cli=fake_command("cli"))
    stack = Stack(scratch / "data", processes=["worker"], env={**NO_SERVERS, "FAKE_CLI_LOG": str(calls)}, recipe=recipe)

    for _ in range(2):
        with stack:
            assert stack.service_key == "ums_1_fake"

    lines = calls.read_text().splitlines()
    assert lines.count("db upgrade") == 2
    grants = "--grant sandbox-static --grant sandbox-overlap --grant sandbox-grace --grant sandbox-strict"
    assert len([line for line in lines if line.startswith(f"service create development {grants} ")]) == 1
    assert stat.S_IMODE((scratch / "data" / "development-service-key").stat().st_mode) == 0o600
    assert "ums_1_fake" not in stack.log_path("setup").read_text()


def test_stack_cli_that_fails_is_quoted(scratch: Path) -> None:
    recipe = Recipe(
        procfile=write_procfile(scratch, "worker"),
        cli=[sys.executable, "-c", "import sys; sys.exit('the database is on fire')"],
    )

    with pytest.raises(DevstackError, match="db upgrade: exit status 1: the database is on fire"):
        Stack(scratch / "data", processes=["worker"], env=NO_SERVERS, recipe=recipe).start()
