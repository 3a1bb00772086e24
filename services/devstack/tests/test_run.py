"""`./run` itself, over stand-ins for the service's processes: what the person sees, and what is left when the front
(the process that the person started) ends in any way."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.devstack import ports
from services.devstack.tests.fake_recipe import write_procfile
from services.devstack.tests.processes import alive, descendants

pytestmark = pytest.mark.serial
REPOSITORY = Path(__file__).resolve().parents[3]
FOREIGN = ("DATABASE_URL", "DATABASE_MIGRATION_URL", "REDIS_URL")


class Front:
    """A running `./run`; `output` is what `until` and `end` have read of its output so far."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.output = ""

    def until(self, beginning: str) -> None:
        """Read the output up to a line that begins with `beginning`; fail the test if there is none."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.output += line
            if line.startswith(beginning):
                return
        pytest.fail(f"no line began with {beginning!r}:\n{self.output}")

    def end(self) -> int:
        """Read the rest of the output, wait for the end and return the exit status."""
        assert self.popen.stdout is not None
        self.output += self.popen.stdout.read()
        return self.popen.wait(20)


@contextmanager
def _front(scratch: Path, *roles: str, **variables: str) -> Iterator[Front]:
    port, sandbox_port = (str(ports.free_ports()[0]) for _ in range(2))
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {"DATA_DIR": str(scratch / "data"), "PORT": port, "SANDBOX_PORT": sandbox_port, "LC_ALL": "C"}
    with subprocess.Popen(
        [sys.executable, "-m", "services.devstack.tests.fake_run", str(write_procfile(scratch, *roles))],
        cwd=REPOSITORY,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as popen:
        front = Front(popen)
        try:
            yield front
        finally:
            popen.terminate()
            front.end()


def _socket_folders(pids: set[int]) -> set[Path]:
    """Return the folders of sockets that the environment of these processes names; those of other tests are not among
    them."""
    told = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)
    return {Path(folder.decode()) for folder in re.findall(rb"=(?:\S+host=|unix://)(/tmp/ums-\w+)", told)}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_signalled_stops_everything(scratch: Path, signum: signal.Signals) -> None:
    with _front(scratch, "web", "worker") as front:
        front.until("ready http")
        pids = descendants(front.popen.pid)
        sockets = _socket_folders(pids)
        assert len(sockets) == 2

        front.popen.send_signal(signum)
        status = front.end()

    assert status == 0
    assert not alive(pids)
    assert not any(folder.exists() for folder in sockets)


def test_run_prints_where_things_are(scratch: Path) -> None:
    with _front(scratch, "web", "worker") as front:
        front.until("ready http://127.0.0.1:")

    assert "/docs" in front.output
    assert "/sign-in" in front.output
    assert "/_ledger" in front.output
    assert "worker  | worker.started" in front.output


def test_run_signalled_again_while_stopping_still_stops_in_order(scratch: Path) -> None:
    with _front(scratch, "web", "stubborn") as front:
        front.until("ready http")
        pids = descendants(front.popen.pid)
        started = time.monotonic()

        for signum in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            front.popen.send_signal(signum)
            time.sleep(0.2)
        status = front.end()

        elapsed = time.monotonic() - started
    assert status == 0
    assert 8 < elapsed < 16, "the grace of 8 s is given once, however many signals come"
    assert not alive(pids)


def test_run_killed_stops_everything_and_runs_again(scratch: Path) -> None:
    with _front(scratch, "web", "worker") as front:
        front.until("ready http")
        pids = descendants(front.popen.pid)
        sockets = _socket_folders(pids)

        front.popen.kill()
        front.popen.wait()

        with _front(scratch, "web", "worker") as again:
            again.until("ready http")
        assert not alive(pids)
        assert not any(folder.exists() for folder in sockets)


def test_run_interrupted_while_starting_leaves_nothing(scratch: Path) -> None:
    with _front(scratch, "web") as front:
        front.until("starting postgres")
        time.sleep(0.1)
        pids = descendants(front.popen.pid)

        front.popen.send_signal(signal.SIGINT)
        status = front.end()

    assert status == 0
    assert not alive(pids)


@pytest.mark.parametrize("variable", ["PORT", "SANDBOX_PORT"])
def test_run_with_a_taken_port_names_it_in_one_line(scratch: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with _front(scratch, "web", **{variable: port}) as front:
            status = front.end()

    assert status == 1
    assert front.output.splitlines() == [
        f"run: port {port} is taken: stop what listens there, or set {variable} to another port"
    ]


def test_run_with_data_in_use_says_so_in_one_line(scratch: Path) -> None:
    with _front(scratch, "web") as front:
        front.until("ready http")

        with _front(scratch, "web") as second:
            status = second.end()

    assert status == 1
    assert second.output.splitlines() == [
        f"run: {scratch / 'data'} is in use by another run: set DATA_DIR to another folder"
    ]


def test_run_with_a_child_that_ends_names_it_and_stops(scratch: Path) -> None:
    with _front(scratch, "web", "crash") as front:
        front.until("starting")
        pids = descendants(front.popen.pid)
        status = front.end()

    assert status == 1
    assert front.output.splitlines()[-1] == "run: crash ended unexpectedly: exit status 1: out of cheese"
    assert not alive(pids)
