"""When `.venv` counts as current, what happens when it does not, and how ./run, ./test and ./fix find their repository
and refuse unknown arguments. A successful installation needs the network, so it is tried not here but by `./test` when
it starts in a fresh checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.devstack import bootstrap
from services.devstack.bootstrap import BootstrapError, Environment

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with requirements and an environment whose stamp says that they are installed."""
    (tmp_path / "requirements.txt").write_text("# comment\nfastapi==1.0 ; python_version > '3'\n    # via x\n")
    (tmp_path / "requirements-dev.txt").write_text("uv==0.1.2\nPy.Test-x_y==3\n")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / ".bootstrap-stamp").write_text(Environment(tmp_path).fingerprint())
    return tmp_path


def test_pins_are_read_from_both_files(repository: Path) -> None:
    assert bootstrap.pinned_packages(repository) == {"fastapi": "1.0", "uv": "0.1.2", "Py.Test-x_y": "3"}


def test_environment_with_its_stamp_is_current(repository: Path) -> None:
    assert Environment(repository).is_current()


@pytest.mark.parametrize("file", bootstrap.REQUIREMENTS)
def test_environment_is_stale_when_requirements_change(repository: Path, file: str) -> None:
    (repository / file).write_text("uv==0.1.3\n")

    assert not Environment(repository).is_current()


def test_environment_is_stale_when_python_changes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")

    assert not Environment(repository).is_current()


def test_environment_is_stale_when_it_was_moved(repository: Path) -> None:
    moved = repository.with_name("moved")
    repository.rename(moved)

    assert not Environment(moved).is_current()


def test_environment_is_stale_when_its_python_is_gone(repository: Path) -> None:
    (repository / ".venv" / "bin" / "python").unlink()

    assert not Environment(repository).is_current()


def test_environment_half_made_is_made_anew(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = repository / ".venv"
    (environment / ".bootstrap-stamp").unlink()
    (environment / ".bootstrap-unfinished").touch()
    (environment / "rubbish").mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")  # the discard port: no network is used
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")

    with pytest.raises(BootstrapError, match="cannot install"):
        Environment(repository).ensure()

    assert not (environment / "rubbish").exists()
    assert (environment / ".bootstrap-unfinished").exists()
    assert (environment / "bin" / "python").exists()


def test_environment_without_ensurepip_names_the_package(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / ".venv" / ".bootstrap-stamp").unlink()
    (repository / ".venv" / "bin" / "python").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(BootstrapError, match="install the package python3-venv"):
        Environment(repository).ensure()


def test_foreign_environment_does_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.setenv(name, "/elsewhere")

    assert "/elsewhere" not in bootstrap.clean_environment().values()


@pytest.mark.parametrize(
    ("script", "arguments", "usage"),
    [
        ("run", ["--help"], "usage: ./run [demo]"),
        ("test", ["weekly"], "usage: ./test [quick|nightly]"),
        ("fix", ["requirements", "now"], "usage: ./fix [requirements]"),
    ],
)
def test_script_with_unknown_arguments_shows_its_usage(script: str, arguments: list[str], usage: str) -> None:
    finished = subprocess.run(
        [REPOSITORY / script, *arguments], capture_output=True, text=True, check=False, cwd="/", env=_bare_environment()
    )

    assert (finished.returncode, finished.stderr.strip()) == (2, usage)


def test_script_through_a_link_from_a_folder_with_a_space_finds_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "elsewhere").symlink_to(REPOSITORY / "run")
    (tmp_path / "relative").symlink_to("a b/elsewhere")

    finished = subprocess.run(
        [tmp_path / "relative", "x"], capture_output=True, text=True, check=False, cwd=folder, env=_bare_environment()
    )

    assert finished.stderr.strip() == "usage: ./run [demo]"


def test_script_without_python_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")

    finished = subprocess.run(
        ["/bin/sh", REPOSITORY / "run"], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)}
    )

    assert finished.returncode == 1
    assert finished.stderr.startswith("run: no Python 3.11 or newer found")
    assert len(finished.stderr.splitlines()) == 1


def _bare_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "CDPATH": "/tmp"}  # noqa: S108 - a trap
