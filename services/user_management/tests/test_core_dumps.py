"""Tests that no process of the service leaves a core dump, whose memory would hold keys and tokens."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
# Each program ends with 2, because its PORT is no number; what is tested is what it does before that.
SCRIPT = """
import resource, runpy, sys
assert resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
sys.argv = ["program", "service", "list"]
try:
    runpy.run_module(MODULE, run_name="__main__")
except SystemExit as end:
    print(end.code, *resource.getrlimit(resource.RLIMIT_CORE))
"""

CRASH = """
import os
from services.user_management.core.core_dumps import forbid_core_dumps
child = os.fork()
if child == 0:
    forbid_core_dumps()
    os.abort()
_, status = os.waitpid(child, 0)
print(os.WTERMSIG(status) == 6, os.WCOREDUMP(status))
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="this machine forbids core dumps itself")
@pytest.mark.parametrize("module", ["main", "celery_app", "cli"])
def test_process_forbids_core_dumps_before_it_reads_a_secret(module: str, tmp_path: Path) -> None:
    script = SCRIPT.replace("MODULE", repr(f"services.user_management.{module}"))
    environment = {"PYTHONPATH": str(REPOSITORY), "PORT": "nonsense"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}

    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert finished.stdout == "2 1 1\n", finished.stderr


def test_process_that_crashes_is_not_dumped(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CRASH],
        env={"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout == "True False\n", finished.stderr
    assert not list(tmp_path.iterdir())


def test_limit_that_the_machine_has_set_to_nothing_is_left_so(tmp_path: Path) -> None:
    script = (
        "import resource; from services.user_management.core.core_dumps import forbid_core_dumps\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); forbid_core_dumps()\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE))"
    )

    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout == "0 0\n", finished.stderr
