"""The programs that `.ci/run` leaves to `./test`, and the exit status that it passes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a folder that holds only a copy of `.ci/run`; `_ci` adds the `./test` that it runs."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci/run", tmp_path / ".ci/run")
    return tmp_path


def _ci(repository: Path, script: str, *, path: str) -> "subprocess.CompletedProcess[str]":
    (repository / "test").write_text(f"#!/bin/sh\n{script}\n")
    (repository / "test").chmod(0o755)
    command = [shutil.which("bash") or "bash", str(repository / ".ci/run")]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env={"PATH": path})


def test_ci_hides_programs_that_nobody_declared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    extra = tmp_path_factory.mktemp("programs")
    (extra / "loadgenerator").symlink_to("/bin/sh")
    (extra / "python3").symlink_to(sys.executable)
    script = "command -v sh git python3 sleep >/dev/null && ! command -v loadgenerator && ! command -v tar"

    ended = _ci(repository, script, path=f"{extra}:/usr/bin:/bin")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_ci_runs_the_python_itself_and_not_its_wrapper(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = tmp_path_factory.mktemp("programs")
    real = Path(sys.executable).resolve()
    (programs / "python3").symlink_to(real)

    ended = _ci(repository, "exec python3 -c 'import sys; print(sys.executable)'", path=f"{programs}:/usr/bin:/bin")

    assert ended.stdout.strip() == str(real)


def test_ci_ends_as_the_tests_do(repository: Path) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"

    assert _ci(repository, "exit 3", path=path).returncode == 3
