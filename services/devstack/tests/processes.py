"""The state of processes according to /proc, and a wait for a condition, for tests that kill processes."""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def _parent(process: Path) -> int | None:
    with contextlib.suppress(OSError):
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        return None if state == "Z" else int(parent)
    return None


def descendants(pid: int) -> set[int]:
    """Return the process ids of all living descendants of `pid`: children, grandchildren and so on, but no zombies."""
    parents = {int(process.name): _parent(process) for process in Path("/proc").glob("[0-9]*")}
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= level
    return found


def alive(pids: Iterable[int]) -> set[int]:
    """Return those of `pids` that still run; a zombie does not count."""
    return {pid for pid in pids if _parent(Path(f"/proc/{pid}")) is not None}


def eventually(condition: Callable[[], bool], *, within: float = 10.0) -> bool:
    """Wait until `condition()` is true, for at most `within` seconds, and tell whether it became true."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
