"""The work of the keeper (the process that is the parent of all others): start what a plan names, watch it, and stop
all of it in order.

Starting happens in a thread of its own, so that a stop never waits for a start.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from signal import SIGTERM, Signals
from typing import Any

from services.devstack import process
from services.devstack.child import Child
from services.devstack.errors import DevstackError, StartTimeoutError
from services.devstack.plan import Plan, Service
from services.devstack.postgres import PostgresServer
from services.devstack.readiness import is_ready
from services.devstack.running_service import RunningService, echo_to_person
from services.devstack.server import remove_folder
from services.devstack.service_key import ensure_service_key
from services.devstack.valkey import ValkeyServer

READY_TIMEOUT = 60.0
DRAIN = 9.0  # seconds from SIGTERM to SIGKILL: more than a provider call takes (8 s)
STOP_LIMIT = 10.0  # for everything
_POLL = 0.1
_LEAST = 0.2

Event = dict[str, Any]
"""An event for the front (the process that the developer started), `{"event": name, …}`: progress(text), started(name,
pid, bin_dir of a server), ready, failed(text), done(id), refused(id, text). The inbox holds commands in the same way,
`{"command": name, …}`."""


class StoppingError(DevstackError):
    """Refusal to start anything while the supervisor stops."""


class Supervisor:
    """Runs one plan. `inbox` takes commands from any thread or signal handler; `report` gets the events."""

    def __init__(self, plan: Plan, report: Callable[[Event], None]) -> None:
        self.inbox: SimpleQueue[Event] = SimpleQueue()
        self._plan = plan
        self._report = report
        self._lock = threading.Lock()
        self._stopping = False
        self._services: dict[str, RunningService] = {}
        self._expected: set[int] = set()
        self._logs = Path(plan.data_dir) / "log"
        self._servers = self._embedded_servers()

    def run(self) -> int:
        """Run the plan until a stop is requested or something fails, then stop everything. Return the exit status: 0
        after a request, 1 after a failure."""
        threading.Thread(target=self._bring_up, name="bring-up", daemon=True).start()
        try:
            return self._obey()
        finally:
            self._stop_all()

    def _embedded_servers(self) -> dict[str, PostgresServer | ValkeyServer]:
        plan, folder = self._plan, Path(self._plan.data_dir)
        servers: dict[str, PostgresServer | ValkeyServer] = {}
        if plan.postgres_sockets:
            servers["postgres"] = PostgresServer(
                folder / "postgres",
                settings=plan.postgres_settings,
                socket_dir=Path(plan.postgres_sockets),
                log_path=self._logs / "postgres.log",
            )
        if plan.valkey_sockets:
            servers["valkey"] = ValkeyServer(
                folder / "valkey", socket_dir=Path(plan.valkey_sockets), log_path=self._logs / "valkey.log"
            )
        return servers

    def _obey(self) -> int:
        """Take messages until one of them ends the run, and return the exit status."""
        while True:
            message = self.inbox.get()
            match message["command"]:
                case "stop":
                    return 0
                case "failed":
                    self._report({"event": "failed", "text": message["text"]})
                    return 1
                case "ended" if message["pid"] not in self._expected:
                    self._report({"event": "failed", "text": message["text"]})
                    return 1
                case "kill" | "start":
                    threading.Thread(target=self._execute, args=(message,), daemon=True).start()

    def _execute(self, order: Event) -> None:
        """Carry out an order of the front about one process, then report `done` or `refused`."""
        try:
            if order["command"] == "kill":
                self._kill(order["name"], Signals(order["signal"]))
            else:
                self._start_again(order["name"])
        except DevstackError as error:
            self._report({"event": "refused", "id": order["id"], "text": str(error)})
        else:
            self._report({"event": "done", "id": order["id"]})

    def _kill(self, name: str, signum: Signals) -> None:
        child = self._child(name)
        self._expected.add(child.pid)
        child.send_signal(signum)
        child.wait()

    def _start_again(self, name: str) -> None:
        if self._child(name).returncode is None:
            raise DevstackError(f"{name} is already running")
        if name in self._servers:
            self._start_server(name)
        else:
            self._wait_ready([self._start_service(self._services[name].service)])

    def _child(self, name: str) -> Child:
        if name in self._servers:
            return self._servers[name].child
        if name in self._services:
            return self._services[name].child
        raise DevstackError(f"there is no process {name!r}; there are {', '.join([*self._servers, *self._services])}")

    def _bring_up(self) -> None:
        failure = "the development stack itself failed, see above"
        try:
            for name in self._servers:
                self._progress(f"starting {name} …")
                self._start_server(name)
            if self._plan.cli:
                self._prepare_database()
            self._progress(f"starting {', '.join(service.name for service in self._plan.services)} …")
            self._wait_ready([self._start_service(service) for service in self._plan.services])
            self._report({"event": "ready"})
            failure = ""
        except DevstackError as error:
            failure = str(error)
        finally:
            if failure:
                self.inbox.put({"command": "failed", "text": failure})

    def _prepare_database(self) -> None:
        self._progress("migrating the database …")
        self._run_cli(["db", "upgrade"])
        ensure_service_key(
            Path(self._plan.data_dir), self._plan.providers, run_cli=self._run_cli, progress=self._progress
        )

    def _run_cli(self, arguments: list[str]) -> str:
        """Return what the service's CLI prints on stdout. Raises `DevstackError` when it fails."""
        command = [*self._plan.cli, *arguments]
        running = self._launch(Service(name="setup", command=command), keep_stdout=True)
        answer = running.answer()
        if running.child.wait() != 0:
            raise DevstackError(f"{' '.join(arguments)}: {running.how_it_ended()}")
        return answer

    def _start_server(self, name: str) -> None:
        server = self._servers[name]
        server.start()
        self._report({"event": "started", "name": name, "pid": server.pid, "bin_dir": str(server.bin_dir)})
        self._watch(name, server.child, lambda: process.describe_end(server.child.returncode))

    def _start_service(self, service: Service) -> RunningService:
        running = self._launch(service)
        self._report({"event": "started", "name": service.name, "pid": running.child.pid})
        self._watch(service.name, running.child, running.how_it_ended)
        return running

    def _launch(self, service: Service, *, keep_stdout: bool = False) -> RunningService:
        with self._lock:
            if self._stopping:
                raise StoppingError("the stack is stopping")
            running = RunningService(
                service,
                environment=self._plan.environment,
                log_path=self._logs / f"{service.name}.log",
                echo=echo_to_person if self._plan.echo else None,
                keep_stdout=keep_stdout,
            )
            self._services[service.name] = running
            return running

    def _watch(self, name: str, child: Child, how: Callable[[], str]) -> None:
        def wait() -> None:
            child.wait()
            text = f"{name} ended unexpectedly: {how()}"
            self.inbox.put({"command": "ended", "pid": child.pid, "text": text})

        threading.Thread(target=wait, name=f"watch-{name}", daemon=True).start()

    def _wait_ready(self, waiting: list[RunningService]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while waiting := [running for running in waiting if not is_ready(running)]:
            if time.monotonic() > deadline:
                names = ", ".join(running.service.name for running in waiting)
                raise StartTimeoutError(f"{names} did not become ready within {READY_TIMEOUT:.0f} s")
            time.sleep(_POLL)

    def _progress(self, text: str) -> None:
        self._report({"event": "progress", "text": text})

    def _stop_all(self) -> None:
        """Stop the services first, then the servers that they use; kill whatever does not end in its time."""
        with self._lock:
            self._stopping = True
        started = time.monotonic()
        children = [running.child for running in self._services.values()]
        for child in children:
            child.send_signal(SIGTERM)
        for child in children:
            child.wait(max(0.0, started + DRAIN - time.monotonic()))
            child.kill()
            child.wait()
        for server in reversed(self._servers.values()):
            left = started + STOP_LIMIT - time.monotonic()
            server.stop(timeout=max(_LEAST, left / 2 - _LEAST))
        process.kill_all()  # whatever the starting thread has started meanwhile
        for folder in (self._plan.postgres_sockets, self._plan.valkey_sockets):
            if folder:
                remove_folder(Path(folder))
