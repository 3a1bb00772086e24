"""Runner of the operator's commands, each in a process with its own environment, stdout, stderr and exit code.

Each process is forked from one that has already imported the commands. Starting Python anew for each of a hundred
commands took a quarter of the time of all tests. `test_cli.py`, and every start of a stack, shows that
`python -m services.user_management.cli` itself works.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.conftest import Servers
from services.user_management.cli.__main__ import COMMANDS, GROUPS, command_line, main
from services.user_management.settings import Settings

_INHERITED = ("PATH", "COV", "LC_", "HOME")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
command_line({*COMMANDS, *GROUPS})  # imports what each of them needs

Ended = subprocess.CompletedProcess[str]


def inherited_environment() -> dict[str, str]:
    """Return the variables of the test run's own environment that a child process needs."""
    return {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)}


def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run a command to its end in exactly `environment`; return its exit code and output. Raises TimeoutError after a
    minute."""
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _FORKS.Process(target=_become, args=(list(arguments), dict(environment), *streams))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{' '.join(arguments)}: not ended after a minute; stderr: {streams[1].read_text()}")
        return subprocess.CompletedProcess(arguments, process.exitcode, *(stream.read_text() for stream in streams))


def _become(arguments: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        with path.open("wb") as stream:
            os.dup2(stream.fileno(), descriptor)
    sys.argv = ["user-management", *arguments]
    main()


class CommandLine:
    """Callable that runs a command on one database and returns its exit code and output. Keyword arguments are
    variables that are added to its environment or override it."""

    def __init__(self, servers: Servers, database: str, settings: Settings) -> None:
        providers = json.dumps({name: {"client_id": "id", "client_secret": "s"} for name in settings.oauth.clients})
        self.environment = {
            **inherited_environment(),
            "DATABASE_URL": servers.url(database),
            "DATABASE_MIGRATION_URL": servers.owner_url(database),
            "REDIS_URL": servers.valkey_url,
            "PROVIDERS_DIR": str(settings.providers.dir),
            "OAUTH_CLIENTS": providers,
        }

    def __call__(self, *arguments: str, **variables: str) -> Ended:
        return run_command(arguments, {**self.environment, **variables})
