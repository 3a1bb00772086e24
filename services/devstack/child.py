"""A child process that leads a process group. When it ends, the processes left in its group are killed."""

import contextlib
import os
import signal
import subprocess
import threading
import time

_GROUP_GRACE = 0.5  # seconds; where nobody reaps orphans (a container without an init) they stay as zombies
_POLL = 0.005


class Child:
    """A started process; whatever is left of its process group is killed as soon as the process ends."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._returncode: int | None = None
        self.stdin = popen.stdin
        self.stdout = popen.stdout
        self.stderr = popen.stderr
        threading.Thread(target=self._reap, name=f"devstack-reap-{popen.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Return the process id, which is also the id of its process group and session."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Return the return code: None while the process runs; negative if a signal ended it."""
        return self._returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, without limit or for up to `timeout` seconds; return the return code, or None if the
        process still runs."""
        self._ended.wait(timeout)
        return self._returncode

    def communicate(self, feed: bytes) -> bytes:
        """Write `feed` to the process's stdin and return its output to the end. Raises TypeError unless both are
        pipes."""
        # Popen.communicate() would reap the process before its group is killed.
        if self.stdin is None or self.stdout is None:
            raise TypeError("communicate() needs stdin and output to be pipes")
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(feed)
        with self.stdout:
            return self.stdout.read()

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the process alone, without its group. Nothing happens when it has ended."""
        with self._lock:
            if self._returncode is None:
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL to the process and its whole group. Nothing happens when the process has ended."""
        with self._lock:
            if self._returncode is None:
                _kill_group(self.pid)

    def stop(self, signum: signal.Signals, *, timeout: float) -> int | None:
        """Send `signum` to the process, and SIGKILL to its group if it still runs after `timeout` seconds; return the
        return code after its end."""
        self.send_signal(signum)
        if self.wait(timeout) is None:
            self.kill()
        return self.wait()

    def _reap(self) -> None:
        # Until it is reaped, the ended leader keeps its process group id from being given to somebody else.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            _kill_group(self.pid)
            self._returncode = self._popen.wait()
        _wait_for_group(self.pid)
        self._ended.set()


def _wait_for_group(leader: int) -> None:
    """Wait up to half a second until the killed members of the group, by now children of init, have disappeared."""
    deadline = time.monotonic() + _GROUP_GRACE
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            time.sleep(_POLL)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies only
        os.killpg(leader, signal.SIGKILL)
