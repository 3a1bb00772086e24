"""Make `.venv` with the pinned requirements, then run the commands that ./run, ./test or ./fix stands for.

Runs on a bare Python >= 3.11 with the standard library alone, as `python -I bootstrap.py run|test|fix ARGUMENTS…`. It
installs only if the requirements, the version of Python or the place of `.venv` changed. If two are started at once,
one waits for the other to finish installing. An environment that a killed install left unfinished is made anew.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
COMPILE = (
    *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
    *("--custom-compile-command", "./fix requirements"),
)
# The commands that each script runs, in order; names stand for programs in .venv/bin.
COMMANDS: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("run",): [("python", "-m", "services.devstack")],
    ("run", "demo"): [("python", "-m", "services.devstack", "demo")],
    ("test",): [("tox", "-p", "auto")],
    ("test", "quick"): [("tox", "-e", "quick")],
    ("test", "nightly"): [("tox", "-e", "coverage,nightly")],
    ("fix",): [("ruff", "format", "."), ("ruff", "check", "--fix", ".")],
    ("fix", "requirements"): [
        (*COMPILE, "requirements.in", "--output-file", "requirements.txt"),
        (*COMPILE, "requirements-dev.in", "--output-file", "requirements-dev.txt"),
    ],
}
# Variables of the developer's own virtualenv, conda or PYTHONPATH, which must not affect our environment.
FOREIGN_VARIABLES = (
    *("PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUSERBASE", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT"),
    *("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"),
    *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"),
)
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)
_NO_INSTALL = "cannot install (is there a network?)"
USAGE_ERROR = 2
INTERRUPTED = 130


class BootstrapError(Exception):
    """Failure that the developer can act on; its text is one line."""


def pinned_packages(repository: Path) -> dict[str, str]:
    """Return package name → version of everything that the requirements files pin."""
    return {name: version for file in REQUIREMENTS for name, version in _PIN.findall((repository / file).read_text())}


def clean_environment() -> dict[str, str]:
    """Return the developer's environment variables without those that would make another Python's packages visible or
    install ours elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}


class Environment:
    """The virtual environment `.venv` of a repository."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.folder = repository / ".venv"
        self._stamp = self.folder / ".bootstrap-stamp"
        self._unfinished = self.folder / ".bootstrap-unfinished"
        self._lock = -1

    def program(self, name: str) -> str:
        """Return the path of a program in the environment."""
        return str(self.folder / "bin" / name)

    def fingerprint(self) -> str:
        """Return a hash that changes when the requirements, the version of Python or the location of the environment
        change."""
        parts = [platform.python_version(), str(self.folder)]
        parts += [(self.repository / file).read_text() for file in REQUIREMENTS]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def is_current(self) -> bool:
        """Tell whether the last install finished, its Python still exists, and the fingerprint has not changed
        since."""
        with suppress(FileNotFoundError):
            return self._stamp.read_text() == self.fingerprint() and Path(self.program("python")).exists()
        return False

    def ensure(self) -> None:
        """Install the requirements unless the environment is current. Raises `BootstrapError` if that fails."""
        if self.is_current():
            return
        # The lock is on the repository's folder itself, so there is no lock file to leave behind or to ignore.
        self._lock = os.open(self.repository, os.O_RDONLY)
        try:
            self._wait_for_others()
            if not self.is_current():
                self._install()
        finally:
            os.close(self._lock)

    def _wait_for_others(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing, waiting for it …")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _install(self) -> None:
        started = time.monotonic()
        pins = pinned_packages(self.repository)
        if self._unfinished.exists() or not self._is_usable(pins["uv"]):
            self._create()
        self._stamp.unlink(missing_ok=True)
        self._unfinished.touch()
        if not self._has_uv(pins["uv"]):
            say(f"installing uv {pins['uv']} …")
            pip = [
                self.program("python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-input",
            ]
            self._checked([*pip, f"uv=={pins['uv']}"], _NO_INSTALL)
        say(f"installing {len(pins)} packages …")
        files = [argument for file in REQUIREMENTS for argument in ("--requirement", file)]
        uv = [self.program("uv"), "pip", "install", "--quiet", "--python", self.program("python")]
        self._checked([*uv, *files], _NO_INSTALL)
        self._stamp.write_text(self.fingerprint())
        self._unfinished.unlink()
        say(f"done in {time.monotonic() - started:.0f} s")

    def _create(self) -> None:
        if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
            raise BootstrapError(
                f"{sys.executable} cannot make virtual environments: install the package python3-venv (Debian, Ubuntu)"
            )
        say("creating .venv …")
        self.folder.mkdir(exist_ok=True)
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._unfinished.touch()
        self._checked([base_python(), "-I", "-m", "venv", str(self.folder)], "cannot create .venv")

    def _is_usable(self, uv: str) -> bool:
        """Tell whether `.venv` has an interpreter of this Python's version, and pip or version `uv` of uv to install
        with."""
        check = f"import sys; sys.exit(sys.version.split()[0] != {platform.python_version()!r})"
        if not self._succeeds(["python", "-I", "-c", check]):
            return False
        return self._has_uv(uv) or self._succeeds(["python", "-I", "-m", "pip", "--version"])

    def _has_uv(self, version: str) -> bool:
        return self._succeeds(
            ["python", "-I", "-c", f"from importlib import metadata as m; assert m.version('uv') == {version!r}"]
        )

    def _succeeds(self, command: Sequence[str]) -> bool:
        try:
            finished = subprocess.run([self.program(command[0]), *command[1:]], capture_output=True, check=False)
        except OSError:
            return False
        return finished.returncode == 0

    def _checked(self, command: Sequence[str], failure: str) -> None:
        """Run an installer. Raises `BootstrapError` with `failure` and the cause if it fails. The installer inherits
        the lock, so that the next start waits for an installer that outlives this process."""
        finished = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=clean_environment(),
            cwd=self.repository,
            pass_fds=[self._lock],
        )
        if finished.returncode != 0:
            lines = [line.strip() for line in (finished.stdout + finished.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if line.lower().startswith("error")] or lines
            cause = ": ".join(dict.fromkeys((errors[0], lines[-1]))) if lines else f"exit status {finished.returncode}"
            raise BootstrapError(f"{failure}: {cause}")


def base_python() -> str:
    """Return the interpreter outside of any virtual environment: the running one may lie in the .venv that is being
    replaced."""
    return sys.executable if sys.prefix == sys.base_prefix else os.path.realpath(sys.executable)


def say(message: str) -> None:
    """Print a line of progress to stderr, because stdout belongs to the command that is run."""
    print(message, file=sys.stderr, flush=True)


def usage(script: str) -> str:
    """Return the text that says how to call the script."""
    words = [arguments[1] for arguments in COMMANDS if arguments[0] == script and len(arguments) > 1]
    return f"usage: ./{script} [{'|'.join(words)}]"


def become(commands: list[tuple[str, ...]], environment: Environment) -> NoReturn:
    """Run the commands in order, exit with the status of the first that fails, and replace this process by the last
    one."""
    variables = clean_environment()
    for command in commands[:-1]:
        status = subprocess.run([environment.program(command[0]), *command[1:]], check=False, env=variables).returncode
        if status != 0:
            sys.exit(status)
    program = environment.program(commands[-1][0])
    os.execve(program, [program, *commands[-1][1:]], variables)  # noqa: S606 - without a shell on purpose


def main(arguments: Sequence[str]) -> NoReturn:
    """Bring the environment up to date and run the commands for `arguments`: a script's name and its arguments. Exits
    with 2 for unknown arguments, with 130 on Ctrl-C, and with 1 and a message of one line if the environment cannot be
    made or a command cannot be started."""
    script = arguments[0]
    commands = COMMANDS.get(tuple(arguments))
    if commands is None:
        say(usage(script))
        sys.exit(USAGE_ERROR)
    environment = Environment(REPOSITORY)
    try:
        environment.ensure()
        become(commands, environment)
    except (BootstrapError, OSError) as error:
        sys.exit(f"{script}: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main(sys.argv[1:])
