"""The whole service with its servers and its sandbox on this machine, for ./run, the demo, tests and benchmarks."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.devstack import directory_lock, folders, ports
from services.devstack.account import account_for
from services.devstack.errors import AlreadyInUseError, DevstackError
from services.devstack.keeper_process import KeeperProcess
from services.devstack.plan import Plan
from services.devstack.postgres import DATABASE, database_url
from services.devstack.preparation import Choices, Recipe, make_plan, make_socket_folders, require_free_ports
from services.devstack.procfile import read_procfile
from services.devstack.server import remove_folder
from services.devstack.service_key import read_service_key
from services.devstack.valkey import valkey_url

_START_LIMIT = 180.0  # seconds between two events; each step has a shorter limit of its own
_ORDER_LIMIT = 75.0
THE_SERVICE = Recipe()


def _say_nothing(_text: str) -> None:
    """Discard a message about progress."""


@dataclass(frozen=True, slots=True)
class Console:
    """Where a stack reports its progress, and whether the developer sees its output."""

    progress: Callable[[str], None] = _say_nothing
    show_output: bool = False
    """Whether the output of the processes goes to stdout; it goes to their logs anyway."""


SILENT = Console()


@dataclass(frozen=True, slots=True)
class StackProcess:
    """A process of a running stack."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class StackPostgres:
    """The embedded Postgres of a running stack."""

    pid: int
    bin_dir: Path
    """Folder of psql, pg_dump and the rest."""
    socket_dir: Path

    def url(self, *, role: str, database: str = DATABASE) -> str:
        """Return the URL `postgresql://ROLE@/DATABASE?host=FOLDER`, with the folder of the socket."""
        return database_url(self.socket_dir, role=role, database=database)


@dataclass(frozen=True, slots=True)
class StackValkey:
    """The embedded Valkey of a running stack."""

    pid: int
    socket_dir: Path

    def url(self) -> str:
        """Return the URL of the server's unix socket, for example `unix:///tmp/ums-1a2b3c4d/valkey.sock`."""
        return valkey_url(self.socket_dir)


class Stack:
    """The service, its servers and the sandbox, which run between `start()` and `stop()`, or inside `with`. If this
    process ends in any other way, the stack stops by itself.

    `port` and `sandbox_port` are free ones unless given. `processes` are names from the Procfile, and `sandbox`; all of
    them unless given. `web_count` copies of the API listen on consecutive ports. `env` overrides this process's
    environment, which overrides the development values; `DATABASE_URL` and `REDIS_URL` in either replace the embedded
    servers.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        sandbox_port: int | None = None,
        processes: Sequence[str] | None = None,
        web_count: int = 1,
        env: Mapping[str, str] | None = None,
        console: Console = SILENT,
        recipe: Recipe = THE_SERVICE,
    ) -> None:
        web_ports = ports.free_ports(web_count) if port is None else list(range(port, port + web_count))
        self._choices = Choices(
            data_dir=data_dir.absolute(),
            web_ports=web_ports,
            sandbox_port=sandbox_port or ports.free_ports()[0],
            processes=processes,
            person={**os.environ, **(env or {})},
        )
        self._console = console
        self._recipe = recipe
        self._undo = ExitStack()
        self._plan: Plan | None = None
        self._keeper: KeeperProcess | None = None

    @property
    def data_dir(self) -> Path:
        """Return the folder that holds the stack's data, secrets and logs."""
        return self._choices.data_dir

    @property
    def api_urls(self) -> list[str]:
        """Return the base URLs of all copies of the API."""
        return [f"http://{ports.LOOPBACK}:{port}" for port in self._choices.web_ports]

    @property
    def api_url(self) -> str:
        """Return the base URL of the API, or of its first copy."""
        return self.api_urls[0]

    @property
    def sandbox_url(self) -> str:
        """Return the base URL of the sandbox."""
        return f"http://{ports.LOOPBACK}:{self._choices.sandbox_port}"

    @property
    def service_key(self) -> str:
        """Return the development service key, which has grants for every provider of the sandbox; empty before it is
        made."""
        return read_service_key(self.data_dir)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that the stack's processes share. Raises `DevstackError` before the start."""
        return dict(self._started_plan.environment)

    def command(self, name: str) -> list[str]:
        """Return the command line that the Procfile gives for `name`. Raises `DevstackError` when it has no such
        process, or before the start."""
        commands = read_procfile(self._recipe.procfile, self._started_plan.environment)
        if name not in commands:
            raise DevstackError(f"{self._recipe.procfile.name} has no process {name!r}")
        return commands[name]

    @property
    def postgres(self) -> StackPostgres:
        """Return the embedded Postgres. Raises `DevstackError` when DATABASE_URL replaced it, or before the start."""
        folder, keeper = self._started_plan.postgres_sockets, self._running_keeper
        if folder is None or keeper.bin_dir is None:
            raise DevstackError("DATABASE_URL names the database: there is no embedded Postgres")
        return StackPostgres(self.process("postgres").pid, keeper.bin_dir, Path(folder))

    @property
    def valkey(self) -> StackValkey:
        """Return the embedded Valkey. Raises `DevstackError` when REDIS_URL replaced it, or before the start."""
        folder = self._started_plan.valkey_sockets
        if folder is None:
            raise DevstackError("REDIS_URL names the broker: there is no embedded Valkey")
        return StackValkey(self.process("valkey").pid, Path(folder))

    @property
    def keeper_pid(self) -> int:
        """Return the process id of the keeper, the parent of all other processes. Raises `DevstackError` before the
        start."""
        return self._running_keeper.pid

    def process(self, name: str) -> StackProcess:
        """Return a process by its name: one from the Procfile, `web-2`, `sandbox`, `postgres` or `valkey`. Raises
        `DevstackError` when there is none of that name, or before the start."""
        pids = self._running_keeper.pids
        if name not in pids:
            raise DevstackError(f"there is no process {name!r}; there are {', '.join(pids)}")
        return StackProcess(name, pids[name])

    def log_path(self, name: str) -> Path:
        """Return the path of a process's log, which is begun anew at each start of the stack."""
        return self.data_dir / "log" / f"{name}.log"

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process and wait for its end; the rest of the stack goes on. Raises `DevstackError` if
        there is no process of that name, or if it has not ended after 75 s."""
        self._running_keeper.order("kill", name, timeout=_ORDER_LIMIT, signal=int(signum))

    def start_process(self, name: str) -> None:
        """Start a process that was killed and wait until it is ready. Raises `DevstackError` if there is none of that
        name, if it still runs, or if it does not become ready."""
        self._running_keeper.order("start", name, timeout=_ORDER_LIMIT)

    def restart(self, name: str) -> None:
        """Kill a process with SIGKILL and start it again. Raises `DevstackError` as `kill` and `start_process` do."""
        self.kill(name)
        self.start_process(name)

    def start(self) -> None:
        """Start everything and wait until all of it answers.

        Raises `DevstackError` (a port is taken, the data is in use, a process did not become ready …) after whatever
        was started has been stopped again.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, which normally takes at most 10 s. Does no harm if nothing runs."""
        self._undo.close()

    def wait(self) -> None:
        """Wait until something fails, then raise `DevstackError` saying what failed."""
        while True:
            self._running_keeper.next_event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        if not self._choices.person.get("DATABASE_URL"):
            data = self.data_dir / "postgres"
            folders.require_reachable(data, account_for(data))
        folders.make_folder(self.data_dir)
        keeper_lock = self._lock()
        require_free_ports(self._choices)
        self._empty_logs()
        sockets = make_socket_folders(self._choices)
        for folder in filter(None, (sockets.postgres, sockets.valkey)):
            self._undo.callback(remove_folder, folder)
        self._plan = make_plan(self._choices, sockets, self._recipe, echo=self._console.show_output)
        self._keeper = self._start_keeper(self._plan, keeper_lock)
        self._undo.callback(self._keeper.stop)
        while (event := self._keeper.next_event(_START_LIMIT))["event"] != "ready":
            if event["event"] == "progress":
                self._console.progress(event["text"])

    def _start_keeper(self, plan: Plan, lock: int) -> KeeperProcess:
        if self._console.show_output:
            return KeeperProcess(plan, lock=lock, messages=sys.stdout.fileno())
        with self.log_path("keeper").open("wb") as messages:
            return KeeperProcess(plan, lock=lock, messages=messages)

    def _lock(self) -> int:
        """Lock DATA_DIR, and return the lock for the keeper, the parent of all other processes. This process holds one
        lock; the keeper inherits the other, and may outlive this process by 10 s. Raises `AlreadyInUseError` at once if
        another run goes on, and after 12 s if one is still stopping."""
        in_use = f"{self.data_dir} is in use by another run: set DATA_DIR to another folder"
        self._undo.callback(os.close, directory_lock.acquire(self.data_dir / "run.lock", in_use=in_use))
        path = self.data_dir / "keeper.lock"
        try:
            descriptor = directory_lock.acquire(path, in_use=in_use)
        except AlreadyInUseError:
            self._console.progress("waiting for the previous run to finish stopping …")
            descriptor = directory_lock.acquire(path, in_use=in_use, wait=directory_lock.STILL_STOPPING)
        self._undo.callback(os.close, descriptor)
        return descriptor

    def _empty_logs(self) -> None:
        folders.make_folder(self.data_dir / "log", private=True)
        for log in (self.data_dir / "log").glob("*.log"):
            log.unlink()

    @property
    def _started_plan(self) -> Plan:
        if self._plan is None:
            raise DevstackError("the stack was not started")
        return self._plan

    @property
    def _running_keeper(self) -> KeeperProcess:
        if self._keeper is None:
            raise DevstackError("the stack was not started")
        return self._keeper
