"""What the embedded Postgres and Valkey have in common: a server process for one data directory with its locks, and the
removal of folders."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.devstack import directory_lock, process
from services.devstack.child import Child
from services.devstack.errors import DevstackError, StartTimeoutError
from services.devstack.process import Account

START_TIMEOUT = 60.0
_POLL = 0.01
# The developer's environment does not reach a server: PGDATA, PGPORT, LD_PRELOAD and others would change its behaviour.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class ServerProcess:
    """The server of one data directory, run as our own child, with the two locks of the directory (`directory_lock`).

    Next to a directory DIR lie DIR.lock, DIR.server.lock and the server's log: DIR.log, unless `log_path` names
    another.
    """

    def __init__(self, data_dir: Path, *, name: str, log_path: Path | None) -> None:
        self.data_dir = data_dir
        self.name = name
        self.log_path = log_path or data_dir.with_name(f"{data_dir.name}.log")
        self._child: Child | None = None
        self._run_lock: int | None = None

    @property
    def running(self) -> bool:
        """Tell whether the server runs."""
        return self._child is not None and self._child.returncode is None

    @property
    def child(self) -> Child:
        """Return the server's process. Raises `DevstackError` before the first start."""
        if self._child is None:
            raise DevstackError(f"{self.name} was not started")
        return self._child

    def lock(self) -> None:
        """Lock the directory for this process. Raises `AlreadyInUseError` when another run has it, and `DevstackError`
        when the server runs already."""
        if self.running:
            raise DevstackError(f"{self.name} is already running")
        if self._run_lock is None:
            path = self.data_dir.with_name(f"{self.data_dir.name}.lock")
            self._run_lock = directory_lock.acquire(path, in_use=self._in_use)

    def unlock(self) -> None:
        """Release the directory."""
        if self._run_lock is not None:
            os.close(self._run_lock)
            self._run_lock = None

    def launch(self, command: Sequence[str | Path], *, account: Account | None, death_signal: signal.Signals) -> None:
        """Start the server as soon as no process of an earlier server is left. Raises `AlreadyInUseError` when one is
        still there after 12 seconds."""
        path = self.data_dir.with_name(f"{self.data_dir.name}.server.lock")
        descriptor = directory_lock.acquire(path, in_use=self._in_use, wait=directory_lock.STILL_STOPPING)
        try:
            with self.log_path.open("ab") as log:
                self._child = process.spawn(
                    command,
                    env=SERVER_ENVIRONMENT,
                    account=account,
                    streams=process.Streams(stdout=log),
                    death_signal=death_signal,
                    pass_fds=[descriptor],
                )
        finally:
            os.close(descriptor)

    def wait_until(self, answers: Callable[[], int | None], *, timeout: float = START_TIMEOUT) -> None:
        """Wait until `answers()` returns the process id of the server that answers, and check that it is our child's.

        Raises `StartTimeoutError` after `timeout` seconds, and `DevstackError` when the child ends or another server
        answers.
        """
        deadline = time.monotonic() + timeout
        while (answered := answers()) is None:
            if self.child.wait(_POLL) is not None:
                raise DevstackError(f"{self.name} ended while starting: {self.last_log_line()}")
            if time.monotonic() > deadline:
                raise StartTimeoutError(f"{self.name} did not answer within {timeout:.0f} s: {self.last_log_line()}")
        if answered != self.child.pid:
            raise DevstackError(f"another {self.name} (pid {answered}) answers in {self.data_dir}")

    def stop(self, signals: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal in turn and wait up to its seconds for the server's end. Send SIGKILL if the server still
        runs after the last one, and release the directory."""
        if self._child is not None:
            for signum, seconds in signals:
                self._child.send_signal(signum)
                if self._child.wait(seconds) is not None:
                    break
            self._child.kill()
            self._child.wait()
        self.unlock()

    def last_log_line(self) -> str:
        """Return the last line of the server's log that is not blank, or a text that says that there is none."""
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")

    @property
    def _in_use(self) -> str:
        return f"the {self.name} data in {self.data_dir} is in use by another run"


def remove_folder(folder: Path) -> None:
    """Remove `folder` with everything in it, if it exists: a socket folder may be gone already, since both the process
    that runs the server and the one that made the folder remove it."""
    shutil.rmtree(folder, ignore_errors=True)
