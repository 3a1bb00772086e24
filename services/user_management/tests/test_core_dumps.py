"""No process of ours leaves a core dump, whose memory holds keys and tokens."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# Each ends with 2 for its configuration: what it does before is what counts.
SCRIPT = """
import resource, runpy, sys
assert resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
sys.argv = ["program", "service", "list"]
try:
    runpy.run_module(MODULE, run_name="__main__")
except SystemExit as end:
    print(end.code, *resource.getrlimit(resource.RLIMIT_CORE))
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

    assert finished.stdout == "2 0 0\n", finished.stderr
