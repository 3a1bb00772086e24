import os
import time
from pathlib import Path

import pytest

from services.devstack import directory_lock, process
from services.devstack.errors import AlreadyInUseError


def test_lock_held_elsewhere_is_refused_at_once(tmp_path: Path) -> None:
    held = directory_lock.acquire(tmp_path / "lock", in_use="mine")

    with pytest.raises(AlreadyInUseError, match="mine"):
        directory_lock.acquire(tmp_path / "lock", in_use="mine")

    os.close(held)


def test_lock_inherited_by_a_child_is_free_when_the_child_ends(tmp_path: Path) -> None:
    held = directory_lock.acquire(tmp_path / "lock", in_use="mine")
    child = process.spawn(["sleep", "0.5"], env=os.environ, pass_fds=[held])
    os.close(held)
    started = time.monotonic()

    os.close(directory_lock.acquire(tmp_path / "lock", in_use="mine", wait=5))

    assert time.monotonic() - started > 0.2
    assert child.wait(1) == 0
