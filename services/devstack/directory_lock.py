"""Locks on a data directory, made with flock(2): the kernel releases a lock when every process that holds it has closed
it or ended.

There are two per directory. The *run* lock is held by the process that uses the directory; a process that cannot get it
fails at once. The *server* lock is inherited by the server itself, so that after a SIGKILL of its owner the next start
waits until the last process of the old server is gone (a Postgres backend, or a Valkey that is still writing its file).
"""

import fcntl
import os
import time
from pathlib import Path

from services.devstack.errors import AlreadyInUseError

STILL_STOPPING = 12.0  # seconds an old server may take to disappear after its owner did
_POLL = 0.05


def acquire(path: Path, *, in_use: str, wait: float = 0.0) -> int:
    """Lock the file `path`, which is made if it is missing, and return its descriptor. Closing the descriptor releases
    the lock unless a child inherited it.

    Raises `AlreadyInUseError(in_use)` when another process still holds the lock after `wait` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, in_use=in_use, deadline=time.monotonic() + wait)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, *, in_use: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise AlreadyInUseError(in_use) from None
            time.sleep(_POLL)
        else:
            return
