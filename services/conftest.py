"""Fixtures of every test: the one real Postgres and the one real Valkey of a test run, and the worker's name. The
controlling process of pytest starts the two servers when they are first needed; the workers of pytest-xdist share them.

The migrated database `user_management` is the template that each worker clones: cloning takes 50 ms, migrating takes a
second.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from services.devstack.postgres import OWNER_ROLE, RUNTIME_ROLE, PostgresServer
from services.devstack.valkey import ValkeyServer
from services.user_management.cli.database import alembic_config

TEMPLATE = "user_management"

# Nothing a test does has to survive a power cut; the crash and infrastructure runs start servers of their own.
POSTGRES_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "jit": "off"}


@dataclass(frozen=True)
class Servers:
    """Addresses of the run's Postgres and Valkey; `postgres_socket` is the folder of the Postgres socket."""

    postgres_socket: str
    valkey_url: str

    def url(self, database: str, *, role: str = RUNTIME_ROLE) -> str:
        return f"postgresql://{role}@/{database}?host={self.postgres_socket}"

    def owner_url(self, database: str) -> str:
        return self.url(database, role=OWNER_ROLE)

    def superuser_url(self, database: str) -> str:
        return self.url(database, role="postgres")


def migrate(servers: Servers, database: str, revision: str) -> None:
    """Upgrade a database to the newest revision if `revision` is `head`; otherwise downgrade it to `revision`."""
    config = alembic_config()
    config.attributes["url"] = servers.owner_url(database)
    config.attributes["runtime_url"] = servers.url(database)
    if revision == "head":
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)


class _ServerOwner:
    """Owner of the run's Postgres and Valkey: the first `get()` starts them and migrates the template database, and
    `stop()` stops them and deletes their data."""

    def __init__(self) -> None:
        self._servers: Servers | None = None
        self._folder: Path | None = None
        self._running: list[PostgresServer | ValkeyServer] = []

    def get(self) -> Servers:
        if self._servers is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ums-test-", dir="/tmp"))
            self._folder.chmod(0o755)
            postgres = PostgresServer(self._folder / "postgres", settings=POSTGRES_SETTINGS)
            valkey = ValkeyServer(self._folder / "valkey", settings={"appendonly": "no"})
            for server in (postgres, valkey):
                server.start()
                self._running.append(server)
            self._servers = Servers(str(postgres.socket_dir), valkey.url())
            migrate(self._servers, TEMPLATE, "head")
        return self._servers

    def stop(self) -> None:
        for server in self._running:
            server.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


_owner = _ServerOwner()


class _ShareWithWorkers:
    """A plugin that tells each worker of pytest-xdist where the servers are; registered only where pytest-xdist is
    installed."""

    def pytest_configure_node(self, node: Any) -> None:
        servers = _owner.get()
        node.workerinput["postgres_socket"] = servers.postgres_socket
        node.workerinput["valkey_url"] = servers.valkey_url


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_ShareWithWorkers())


def pytest_unconfigure() -> None:
    _owner.stop()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """Return the addresses of this run's Postgres and Valkey."""
    shared = getattr(request.config, "workerinput", None)
    return Servers(shared["postgres_socket"], shared["valkey_url"]) if shared else _owner.get()


@pytest.fixture(scope="session")
def worker_name() -> str:
    """Return the name of this worker: `gw0`, `gw1`, … or, without pytest-xdist, `main`."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main")
