"""The front's side of the keeper. The front is the process that the developer started; the keeper starts, watches and
stops all other processes of the development stack. The front starts the keeper, gives it orders and receives its
events; if the keeper is killed, the front waits up to 5 s for the keeper's children to end."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from services.devstack import process
from services.devstack.errors import DevstackError, StartTimeoutError
from services.devstack.plan import Plan
from services.devstack.running_service import REPOSITORY

_STOP_LIMIT = 12.0  # the keeper needs 10 s at most
_ORPHANS_LIMIT = 5.0
_POLL = 0.02


class KeeperProcess:
    """A running keeper. It stops everything as soon as this process closes the pipe to it or ends in any way."""

    def __init__(self, plan: Plan, *, lock: int, messages: process.Stream) -> None:
        """Start the keeper with `plan`. The keeper holds the lock whose descriptor is `lock` as long as it lives, and
        writes its stderr to `messages`. Raises `DevstackError` if the keeper ends before it has been sent the plan."""
        self.pids: dict[str, int] = {}
        self.bin_dir: Path | None = None
        self._events: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._numbers = itertools.count(1)
        self._child = process.spawn(
            [sys.executable, "-m", "services.devstack.keeper"],
            env=os.environ,
            cwd=REPOSITORY,
            streams=process.Streams(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages),
            death_signal=None,
            pass_fds=[lock],
        )
        self._tell(plan.to_json())
        threading.Thread(target=self._hear, name="keeper-events", daemon=True).start()

    @property
    def pid(self) -> int:
        """Return the keeper's process id."""
        return self._child.pid

    def next_event(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the keeper's next event and return it. Raises `DevstackError` if the event is a failure, a refused
        order or the keeper's end, and `StartTimeoutError` if no event comes within `timeout` seconds (None means no
        limit)."""
        try:
            event = self._events.get(timeout=timeout)
        except Empty:
            raise StartTimeoutError("the development stack does not answer") from None
        if event["event"] in {"failed", "refused", "keeper-ended"}:
            raise DevstackError(event["text"])
        return event

    def order(self, command: str, name: str, *, timeout: float, **details: Any) -> None:
        """Order the keeper to `command` (`kill` or `start`) the process `name`, and wait until that is done. Raises
        `DevstackError` if the keeper refuses the order or something fails meanwhile, and `StartTimeoutError` if no
        event comes for `timeout` seconds."""
        number = next(self._numbers)
        self._tell(json.dumps({"command": command, "name": name, "id": number, **details}))
        while (event := self.next_event(timeout))["event"] != "done" or event["id"] != number:
            pass

    def stop(self) -> None:
        """Stop everything and wait for the end. If the keeper takes longer than 12 s, kill it. Then wait up to 5 s for
        processes that it left behind."""
        if self._child.stdin is not None:
            with suppress(BrokenPipeError):  # it is dead already
                self._child.stdin.close()
        if self._child.wait(_STOP_LIMIT) is None:
            self._child.kill()
            self._child.wait()
        self._wait_for_orphans()

    def _wait_for_orphans(self) -> None:
        """Wait up to 5 s for the children of a keeper that was killed: PR_SET_PDEATHSIG is ending them, and init is
        their parent by now."""
        deadline = time.monotonic() + _ORPHANS_LIMIT
        while any(Path(f"/proc/{pid}").exists() for pid in self.pids.values()) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _tell(self, line: str) -> None:
        if self._child.stdin is None or self._child.stdin.closed:
            raise DevstackError("the development stack was stopped")
        try:
            self._child.stdin.write(line.encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise DevstackError(self._how_it_ended()) from None

    def _hear(self) -> None:
        if self._child.stdout is None:
            return
        with self._child.stdout as events:
            for line in events:
                event = json.loads(line)
                if event["event"] == "started":
                    self.pids[event["name"]] = event["pid"]
                    self.bin_dir = Path(event["bin_dir"]) if event["name"] == "postgres" else self.bin_dir
                self._events.put(event)
        self._child.wait()
        self._events.put({"event": "keeper-ended", "text": self._how_it_ended()})

    def _how_it_ended(self) -> str:
        self._child.wait()
        return f"the keeper of all processes ended: {process.describe_end(self._child.returncode)}"
