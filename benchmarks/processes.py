"""Runs a server under test as a child process, makes sure that it is the one that listens on its port, and measures its
CPU time and memory."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.errors import BenchmarkError
from services.devstack import ports, process
from services.devstack.child import Child

START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Return the current resident set size of a process in bytes. Raises OSError when it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


class ServerUnderTest(AbstractContextManager["ServerUnderTest"]):
    """Runs `command` on `port` for the length of the `with` block; its output goes to NAME.log in `folder`.

    The server's working directory is `folder`, so that it does not read the repository's `.env`.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, port: int, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.url = f"http://{ports.LOOPBACK}:{port}"
        self._command = command
        self._port = port
        self._environment = {**environment, "PORT": str(port)}
        self._folder = folder
        self._log_path = folder / f"{name}.log"
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """Start the server and wait until it listens. Raises BenchmarkError if it ends or has not done so after 30
        seconds."""
        with self._log_path.open("wb") as log:
            streams = process.Streams(stdout=log)
            self._child = process.spawn(self._command, env=self._environment, cwd=self._folder, streams=streams)
        try:
            self._wait_until_it_listens()
        except BaseException:
            self._child.stop(signal.SIGKILL, timeout=_STOP_SECONDS)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.child.stop(signal.SIGTERM, timeout=_STOP_SECONDS)

    @property
    def child(self) -> Child:
        """The child process. Raises BenchmarkError before the start."""
        if self._child is None:
            raise BenchmarkError(f"{self.name} was not started")
        return self._child

    def cpu_seconds(self) -> float:
        """Return the server's CPU time since the start in seconds, user and system. Raises BenchmarkError when it has
        ended."""
        fields = self._proc("stat").rpartition(")")[2].split()
        utime, stime = int(fields[11]), int(fields[12])  # proc_pid_stat(5): fields 14 and 15, the name is field 2
        return (utime + stime) / _TICKS_PER_SECOND

    def resident_bytes(self) -> int:
        """Return the server's current resident set size in bytes. Raises BenchmarkError when it has ended."""
        return int(self._proc("statm").split()[1]) * _PAGE_BYTES

    def _proc(self, name: str) -> str:
        if self.child.returncode is not None:
            raise self._ended("while it was measured")
        return Path(f"/proc/{self.child.pid}/{name}").read_text()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        # Another process may listen on the port by now; only a socket of our child counts.
        while not ports.is_served_by(self._port, self.child.pid):
            if self.child.wait(_POLL_SECONDS) is not None:
                raise self._ended("while starting")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} did not listen within {START_SECONDS:.0f} s: {self._last_line()}")

    def _ended(self, when: str) -> BenchmarkError:
        how = process.describe_end(self.child.returncode)
        return BenchmarkError(f"{self.name} ended {when} ({how}): {self._last_line()}")

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it printed nothing"
