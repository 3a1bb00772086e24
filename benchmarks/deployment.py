"""Starts a throw-away deployment, still without a process of the service: Postgres with the schema, Valkey, and the
environment variables of production."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError
from services.devstack import process
from services.devstack.development_secrets import DevelopmentSecrets
from services.devstack.folders import scratch_folder
from services.devstack.ports import LOOPBACK
from services.devstack.postgres import DATABASE, OWNER_ROLE, RUNTIME_ROLE, SUPERUSER, PostgresServer
from services.devstack.process import Finished
from services.devstack.server import SERVER_ENVIRONMENT
from services.devstack.valkey import ValkeyServer

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ISSUER: Final = "https://clerk.example.com"
AUTHORIZED_PARTY: Final = "https://app.example.com"
NOBODY_REFUSED: Final = {"LIMITS_USER": "1000000/60", "LIMITS_INTERNAL": "1000000/1"}
"""Rate limits that count every request, as in production, and refuse none."""
_PREPARATION_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running Postgres and Valkey, at first with the schema and no data; all files in `folder` are deleted at the
    end."""

    folder: Path
    environment: Mapping[str, str]
    """Environment variables of every process of the service."""
    postgres: PostgresServer

    def run_python(self, *arguments: str) -> Finished:
        """Run `python ARGUMENTS…` with the variables in `environment`, for at most five minutes. Raises BenchmarkError
        with the last line that was printed, if the command fails or takes longer."""
        command = [sys.executable, *arguments]
        finished = process.run(command, env=self.environment, cwd=self.folder, timeout=_PREPARATION_SECONDS)
        if finished.returncode != 0:
            raise BenchmarkError(f"{' '.join(arguments[:3])}: {finished.last_line}")
        return finished

    def query(self, sql: str, *, role: str = SUPERUSER) -> str:
        """Run `sql` as `role` and return what psql prints. Raises BenchmarkError."""
        flags = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-U", role, "-d", DATABASE]
        command: list[str | Path] = [
            self.postgres.bin_dir / "psql",
            *flags,
            "-h",
            str(self.postgres.socket_dir),
            "-c",
            sql,
        ]
        finished = process.run(command, env=SERVER_ENVIRONMENT, timeout=_PREPARATION_SECONDS)
        if finished.returncode != 0:
            raise BenchmarkError(f"psql: {finished.last_line}")
        return finished.output.strip()


@contextmanager
def deployed(postgres_settings: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Deployment]:
    """Start a deployment, yield it, and stop it and delete its data at the end of the block.

    `postgres_settings` override its postgresql.conf, and `environment` its environment variables. Raises BenchmarkError
    or DevstackError.
    """
    with (
        scratch_folder() as folder,
        PostgresServer(folder / "postgres", settings=postgres_settings) as postgres,
        ValkeyServer(folder / "valkey") as valkey,
    ):
        deployment = Deployment(folder, {**production_environment(postgres, valkey), **environment}, postgres)
        deployment.run_python("-m", "services.user_management.cli", "db", "upgrade")
        yield deployment


def production_environment(postgres: PostgresServer, valkey: ValkeyServer) -> dict[str, str]:
    """Return the environment variables that an operator sets in production, with made-up addresses of Clerk and the
    frontend.

    Nothing is taken from the caller's own environment.
    """
    secrets = DevelopmentSecrets.generate()
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
        "PYTHONPATH": str(REPOSITORY),
        "LC_ALL": "C.UTF-8",
        "ENVIRONMENT": "production",
        "HOST": LOOPBACK,
        "PUBLIC_URL": "https://users.example.com",
        "DATABASE_URL": postgres.url(role=RUNTIME_ROLE),
        "DATABASE_MIGRATION_URL": postgres.url(role=OWNER_ROLE),
        "REDIS_URL": valkey.url(),
        "CLERK_ISSUER": ISSUER,
        "CLERK_AUTHORIZED_PARTIES": json.dumps([AUTHORIZED_PARTY]),
        "CLERK_SECRET_KEY": secrets.clerk_secret_key,
        "CLERK_WEBHOOK_SIGNING_SECRET": secrets.webhook_secret,
        "FRONTEND_ORIGINS": json.dumps([AUTHORIZED_PARTY]),
        "FRONTEND_RETURN_URLS": json.dumps([f"{AUTHORIZED_PARTY}/connected"]),
        "FRONTEND_CONNECT_URL": f"{AUTHORIZED_PARTY}/connect/{{provider}}?scopes={{scopes}}",
        "OAUTH_CLIENTS": json.dumps({"google": {"client_id": "benchmark", "client_secret": "never-sent"}}),
        "ENCRYPTION_KEYS": json.dumps({"1": secrets.encryption_key}),
        "ENCRYPTION_SALT": secrets.encryption_salt,
        "SIGNING_SECRET": secrets.signing_secret,
    }
