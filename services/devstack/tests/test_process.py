"""Child processes: what they inherit and return, and that a group ends with its leader and a child with this
process."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.devstack import process
from services.devstack.tests.processes import alive, eventually

REPOSITORY = Path(__file__).resolve().parents[3]
_PARENT = """
import os, sys
from services.devstack import process
child = process.spawn(["sleep", "600"], env=os.environ)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_run_gives_status_and_output() -> None:
    finished = process.run(["sh", "-c", "cat; echo oops >&2; exit 3"], env=os.environ, feed="fed\n")

    assert (finished.returncode, finished.output, finished.last_line) == (3, "fed\noops\n", "oops")


def test_run_of_a_missing_command_says_so() -> None:
    finished = process.run(["/nowhere/at-all"], env={})

    assert finished.returncode == 127
    assert finished.last_line == "/nowhere/at-all: No such file or directory"


def test_run_beyond_its_time_is_killed() -> None:
    finished = process.run(["sleep", "600"], env=os.environ, timeout=0.2)

    assert finished.returncode == -signal.SIGKILL


def test_spawn_gives_exactly_the_environment() -> None:
    finished = process.run(["/usr/bin/env"], env={"ONLY": "this"})

    assert finished.output == "ONLY=this\n"


def test_spawn_makes_a_session_leader() -> None:
    child = process.spawn(["sleep", "600"], env=os.environ)

    assert os.getsid(child.pid) == child.pid

    assert child.stop(signal.SIGTERM, timeout=5) == -signal.SIGTERM


def test_spawn_with_ignored_signals_resets_them() -> None:
    # `nohup ./run` and `./run &` of a script ignore signals; what is started must not inherit that.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = process.spawn(["sleep", "600"], env=os.environ)
        assert eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
    finally:
        signal.signal(signal.SIGINT, previous)

    assert child.stop(signal.SIGINT, timeout=5) == -signal.SIGINT


def test_child_that_ends_takes_its_group_along() -> None:
    script = "sleep 600 & echo $!; exec sleep 600"
    child = process.spawn(["sh", "-c", script], env=os.environ, streams=process.Streams(stdout=subprocess.PIPE))
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())

    child.stop(signal.SIGTERM, timeout=5)

    child.stdout.close()
    assert eventually(lambda: not alive([grandchild]))


def test_child_stubborn_is_killed_after_its_time() -> None:
    child = process.spawn(["sh", "-c", "trap '' TERM; echo; sleep 600 & wait; wait"], env=os.environ)

    assert child.stop(signal.SIGTERM, timeout=0.3) in {-signal.SIGKILL, -signal.SIGTERM}


def test_child_started_by_a_thread_outlives_the_thread() -> None:
    children = []
    thread = threading.Thread(target=lambda: children.append(process.spawn(["sleep", "600"], env=os.environ)))
    thread.start()
    thread.join()

    still_running = children[0].wait(0.3) is None

    children[0].stop(signal.SIGTERM, timeout=5)
    assert still_running


@pytest.mark.serial
def test_child_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        parent.kill()
        parent.wait()

        assert eventually(lambda: not alive([child]), within=2)


def test_end_is_described_for_a_person() -> None:
    assert process.describe_end(3) == "exit status 3"
    assert process.describe_end(-9) == "killed by SIGKILL"
