"""Runs Celery workers beside the stack's own, and kills their children. Each worker listens on a queue of its own, so
that it is known which worker does which work."""

import asyncio
import itertools
import os
import re
import signal
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from celery import Celery

from benchmarks.chaos.waiting import until
from benchmarks.errors import BenchmarkError
from services.devstack.replicas import START_SECONDS, start
from services.devstack.stack import Stack
from services.user_management.celery_config import broker_url
from services.user_management.enums import JobName

_READY: Final = "worker.started"
_DEATH: Final = re.compile(r"pid:(\d+) exited with 'signal 9")
_numbers = itertools.count(1)


class Worker:
    """A Celery worker, started at once, whose `concurrency` child processes do the jobs that are ordered."""

    def __init__(self, stack: Stack, folder: Path, environment: Mapping[str, str], *, concurrency: int) -> None:
        self._queue = f"chaos-{next(_numbers)}"
        self._log = folder / f"{self._queue}.log"
        self._broker = Celery(broker=broker_url(stack.environment["REDIS_URL"]))
        options = ("--queues", self._queue, "--concurrency", str(concurrency), "--hostname", f"{self._queue}@%h")
        self._parent = start(stack, "worker", self._log, environment, *options)

    async def until_ready(self) -> None:
        """Wait until the worker takes orders. Raises BenchmarkError when it ends or is not ready after 60 seconds."""

        async def is_ready() -> bool:
            return _READY in self._text() or self._parent.returncode is not None

        if not await until(is_ready, seconds=START_SECONDS) or self._parent.returncode is not None:
            raise BenchmarkError(f"a worker did not start: {self._text()[-500:]}")

    async def order(self, job: JobName) -> None:
        """Send this worker the message with which beat would order the job."""
        await asyncio.to_thread(self._broker.send_task, job.value, queue=self._queue)

    async def children(self) -> list[int]:
        """Return the process ids of the worker's children, which do the work, once there is at least one. Raises
        BenchmarkError when there is none after 60 seconds."""

        seen: list[int] = []

        async def there_is_one() -> bool:
            seen[:] = self._living()
            return bool(seen)

        if not await until(there_is_one, seconds=START_SECONDS):
            raise BenchmarkError(f"a worker has no child: {self._text()[-500:]}")
        return seen  # not looked at again: the last one may just have died

    def deaths(self) -> list[int]:
        """Return the process ids of the children that SIGKILL has ended so far, in no particular order.

        /proc shows the children that nobody has reaped yet, and the worker's log names the others: Celery reaps its
        children every five seconds.
        """
        reaped = {int(pid) for pid in _DEATH.findall(self._text())}
        return list(reaped | set(filter(_was_killed, self._children())))

    async def until_death(
        self, known: Collection[int], *, seconds: float, unless: Callable[[], Awaitable[bool]]
    ) -> int | None:
        """Wait until SIGKILL has ended a child that is not among the `known`, and return its process id; None if that
        does not happen within `seconds` or before `unless` comes true."""

        async def is_decided() -> bool:
            return bool(set(self.deaths()) - set(known)) or await unless()

        await until(is_decided, seconds=seconds)
        return next(iter(set(self.deaths()) - set(known)), None)

    async def kill_child(self, child: int) -> None:
        """Send SIGKILL to the process, if it is still a living child of the worker."""
        if child in self._living():
            os.kill(child, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the worker with its children, and close the connection to the broker."""
        self._parent.kill()
        self._broker.close()

    def _living(self) -> list[int]:
        return [pid for pid in self._children() if not _was_killed(pid)]

    def _children(self) -> list[int]:
        parent = self._parent.pid
        try:
            return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except OSError:
            return []

    def _text(self) -> str:
        return self._log.read_text(errors="replace")


def _was_killed(pid: int) -> bool:
    """Tell whether the process is a zombie that SIGKILL ended, by its state and exit_code, the third and the last field
    in proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "Z" and os.waitstatus_to_exitcode(int(fields[-1])) == -signal.SIGKILL


@contextmanager
def worker_in(stack: Stack, folder: Path, environment: Mapping[str, str], *, concurrency: int = 1) -> Iterator[Worker]:
    """Start a worker, and kill it at the end of the block. It may not be ready yet: the caller awaits `until_ready`."""
    worker = Worker(stack, folder, environment, concurrency=concurrency)
    try:
        yield worker
    finally:
        worker.kill()
