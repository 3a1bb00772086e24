"""Child processes, each the leader of its own session, that die with this process, unless they are to outlive it.

PR_SET_PDEATHSIG fires when the *thread* that started the child ends (prctl(2)). A test, an executor or an event loop
may start servers from threads that end long before the process does, so all children are started by one thread that
lives as long as the process.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from services.devstack.child import Child
from services.devstack.errors import DevstackError

LAUNCHER = Path(__file__).with_name("launcher.py")
ROOT_FOLDER = Path("/")
Stream = int | IO[bytes]


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams from which a process reads and to which it writes, as the arguments of `subprocess.Popen`."""

    stdin: Stream = subprocess.DEVNULL
    stdout: Stream = subprocess.DEVNULL
    stderr: Stream = subprocess.STDOUT


QUIET = Streams()
PIPES = Streams(stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@dataclass(frozen=True, slots=True)
class Account:
    """User id and group id under which a process runs."""

    uid: int
    gid: int


class _Spawner:
    """The thread that starts all children of this process; a forked child of this process makes a thread of its
    own."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._orders: SimpleQueue[tuple[list[str], dict[str, Any], Future[Child]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._closed = False
        threading.Thread(target=self._work, name="devstack-spawner", daemon=True).start()

    def start(self, command: list[str], options: dict[str, Any]) -> Child:
        future: Future[Child] = Future()
        self._orders.put((command, options, future))
        return future.result()

    def close(self) -> list[Child]:
        """Refuse all further orders, and return the children that still run."""
        with self._lock:
            self._closed = True
            return [child for child in self._children if child.returncode is None]

    def _work(self) -> None:
        while True:
            command, options, future = self._orders.get()
            try:
                future.set_result(self._start(command, options))
            except Exception as error:  # noqa: BLE001 - the caller gets it; the thread has to live on
                future.set_exception(error)

    def _start(self, command: list[str], options: dict[str, Any]) -> Child:
        with self._lock:
            if self._closed:
                raise DevstackError("this process starts nothing any more")
            child = Child(subprocess.Popen(command, **options))
            self._children = [*(other for other in self._children if other.returncode is None), child]
            return child


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _current_spawner() -> _Spawner:
    # Process-wide on purpose: the thread belongs to the process, not to any of its servers.
    global _spawner
    with _spawner_lock:
        if _spawner is None or _spawner.owner != os.getpid():
            _spawner = _Spawner()
        return _spawner


def kill_all() -> None:
    """Refuse further starts, send SIGKILL to every child that still runs and wait for its end. For use just before
    this process ends."""
    for child in _current_spawner().close():
        child.kill()
        child.wait()


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    account: Account | None = None,
    cwd: Path = ROOT_FOLDER,
    streams: Streams = QUIET,
    death_signal: signal.Signals | None = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start `command` without a shell, with exactly the environment `env`.

    The process drops to `account` (needs root). `death_signal` is the signal that the kernel sends when this process
    dies; None is for a process that has to outlive it. If the command does not exist, the child's exit status is 127.
    Raises `DevstackError` after `kill_all()`.
    """
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    launcher = [
        *(sys.executable, "-I", "-S", str(LAUNCHER)),
        *(str(number) for number in (os.getpid(), int(death_signal or 0), uid, gid)),
        env.get("LC_CTYPE", ""),
        "--",
    ]
    options = {
        "env": dict(env),
        "cwd": cwd,
        "stdin": streams.stdin,
        "stdout": streams.stdout,
        "stderr": streams.stderr,
        "start_new_session": True,
        "pass_fds": tuple(pass_fds),
    }
    program = shutil.which(command[0], path=env.get("PATH", os.defpath)) or command[0]
    return _current_spawner().start([*launcher, *map(str, (program, *command[1:]))], options)


@dataclass(frozen=True, slots=True)
class Finished:
    """Result of a short command: how it ended, and what it printed (stdout and stderr together)."""

    returncode: int
    output: str

    @property
    def last_line(self) -> str:
        """Return the last line of the output that is not blank, or a dash if there is none."""
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "-").strip()


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    account: Account | None = None,
    cwd: Path = ROOT_FOLDER,
    feed: str = "",
    timeout: float = 60.0,
) -> Finished:
    """Run a short command to its end, or to SIGKILL after `timeout` seconds; return how it ended and what it printed.

    `feed` is the command's stdin, and has to be smaller than the 64 KiB that a pipe holds. Raises `DevstackError` as
    `spawn` does.
    """
    child = spawn(command, env=env, account=account, cwd=cwd, streams=PIPES)
    timer = threading.Timer(timeout, child.kill)
    timer.start()
    try:
        output = child.communicate(feed.encode()).decode(errors="replace")
        returncode = child.wait()
    finally:
        timer.cancel()
    return Finished(returncode=-signal.SIGKILL if returncode is None else returncode, output=output)


def describe_end(returncode: int | None) -> str:
    """Return how a process ended, as `exit status 3` or `killed by SIGKILL`."""
    if returncode is not None and returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
