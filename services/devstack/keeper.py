"""The keeper (`-m services.devstack.keeper`): the process that starts, watches and stops all other processes of the
development stack for the front, which is the process that the developer started.

It is the real parent of every server and service, and it lives in a session of its own, so that a Ctrl-C in the
terminal does not reach it. Its stdin is a pipe whose only other end the front holds: however the front ends, SIGKILL
included, the pipe ends too, and the keeper stops everything in order. If the keeper is killed, its children die by
PR_SET_PDEATHSIG.

The keeper reads the plan and then orders from stdin, one line of JSON each, and writes events to stdout in the same
form. Its stderr goes to the developer's terminal or, if output is not shown, to keeper.log.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

from services.devstack.plan import Plan
from services.devstack.supervisor import Event, Supervisor

_STDIN, _STDOUT = 0, 1
_CHUNK = 65536


def _lines(descriptor: int) -> Iterator[str]:
    """Yield the lines of a pipe. No buffered reader is used, since a daemon thread would hold its lock when the
    process exits."""
    rest = b""
    while chunk := os.read(descriptor, _CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in lines)


class _Reporter:
    """Writes events to stdout, one whole line at a time even if several threads report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock, suppress(BrokenPipeError):  # the front is gone, and the end of its pipe stops us
            os.write(_STDOUT, json.dumps(event).encode() + b"\n")


def main() -> int:
    """Run the plan that is read from stdin, and return the exit status: 0 after a stop, 1 if something failed or there
    is no plan."""
    orders = _lines(_STDIN)
    first = next(orders, None)
    if first is None:
        return 1
    supervisor = Supervisor(Plan.from_json(first), _Reporter())

    def stop(_signum: int, _frame: FrameType | None) -> None:
        supervisor.inbox.put({"command": "stop"})  # SimpleQueue.put is reentrant

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)

    def read() -> None:
        for line in orders:
            supervisor.inbox.put(json.loads(line))
        supervisor.inbox.put({"command": "stop"})

    threading.Thread(target=read, name="orders", daemon=True).start()
    return supervisor.run()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # without waiting for threads that are still blocked
