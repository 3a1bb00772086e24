"""What precedes the start of a stack: its parameters, socket folders, provider files and secrets, a check of its ports,
and the plan for the keeper (the process that starts, watches and stops all others)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.devstack import folders, ports
from services.devstack.account import account_for
from services.devstack.development_secrets import DevelopmentSecrets
from services.devstack.environment import Addresses, OAuthClient, development_environment, process_environment
from services.devstack.errors import DevstackError
from services.devstack.plan import Plan, Service
from services.devstack.postgres import OWNER_ROLE, RUNTIME_ROLE, database_url
from services.devstack.procfile import read_procfile
from services.devstack.provider_copies import configured_clients, copy_provider_files
from services.devstack.running_service import REPOSITORY
from services.devstack.valkey import valkey_url
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET, write_provider_files

WEB, SANDBOX = "web", "sandbox"
_SANDBOX_COMMAND = ["python", "-m", "services.sandbox"]
_READY_TEXTS = {"worker": "worker.started", "beat": "beat.started"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The programs that a stack runs and the settings of its Postgres; by default those of the service itself."""

    procfile: Path = REPOSITORY / "Procfile"
    cli: Sequence[str] = ("python", "-m", "services.user_management.cli")
    """Command of the service's CLI; empty if there is nothing to migrate and no service key."""
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that override postgresql.conf."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Parameters of a stack, as the developer or the test chose them."""

    data_dir: Path
    web_ports: Sequence[int]
    sandbox_port: int
    processes: Sequence[str] | None
    """Names from the Procfile, and `sandbox`; None means all."""
    person: Mapping[str, str]
    """The developer's environment variables; they override the development values."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Private folders for the sockets of the embedded servers; None where the developer's variables name another
    server."""

    postgres: Path | None
    valkey: Path | None


def make_socket_folders(choices: Choices) -> Sockets:
    """Make and return a socket folder for each embedded server: none for Postgres if DATABASE_URL is set, and none for
    Valkey if REDIS_URL is."""
    account = account_for(choices.data_dir / "postgres")
    return Sockets(
        postgres=None if choices.person.get("DATABASE_URL") else folders.make_socket_folder(account),
        valkey=None if choices.person.get("REDIS_URL") else folders.make_socket_folder(None),
    )


def make_plan(choices: Choices, sockets: Sockets, recipe: Recipe, *, echo: bool) -> Plan:
    """Write the provider files and, if missing, the secrets, and return the plan of what to start. Raises
    `DevstackError` for a malformed Procfile or secrets file, and for a process that `choices` name and the Procfile
    lacks."""
    environment, providers = _environment(choices, sockets)
    return Plan(
        data_dir=str(choices.data_dir),
        environment=environment,
        services=_services(choices, environment, recipe.procfile),
        postgres_sockets=str(sockets.postgres) if sockets.postgres else None,
        valkey_sockets=str(sockets.valkey) if sockets.valkey else None,
        postgres_settings=dict(recipe.postgres_settings),
        cli=list(recipe.cli),
        providers=providers,
        echo=echo,
    )


def _addresses(choices: Choices, sockets: Sockets) -> Addresses:
    external = choices.person.get("DATABASE_URL", "")
    return Addresses(
        port=choices.web_ports[0],
        sandbox_port=choices.sandbox_port,
        database_url=database_url(sockets.postgres, role=RUNTIME_ROLE) if sockets.postgres else external,
        database_migration_url=database_url(sockets.postgres, role=OWNER_ROLE) if sockets.postgres else external,
        redis_url=valkey_url(sockets.valkey) if sockets.valkey else choices.person.get("REDIS_URL", ""),
    )


def _environment(choices: Choices, sockets: Sockets) -> tuple[dict[str, str], list[str]]:
    """Write the provider files and, if missing, the secrets. Return the environment of all processes, and the names of
    the sandbox's providers that the service will know (none if PROVIDERS_DIR names the developer's own files)."""
    addresses = _addresses(choices, sockets)
    folder, own = choices.data_dir / "providers", configured_clients(choices.person.get("OAUTH_CLIENTS", ""))
    providers = [
        *write_provider_files(folder, addresses.sandbox_url),
        *copy_provider_files(folder, addresses.sandbox_url, except_for=own),
    ]
    if choices.person.get("PROVIDERS_DIR"):
        providers = []  # the service reads the developer's own files instead
    development = development_environment(
        choices.data_dir,
        addresses,
        DevelopmentSecrets.of(choices.data_dir),
        providers=providers,
        client=OAuthClient(CLIENT_ID, CLIENT_SECRET),
    )
    chosen = {"PORT": development["PORT"], "SANDBOX_PORT": development["SANDBOX_PORT"]}
    return process_environment(development, {**choices.person, **chosen}), providers


def _services(choices: Choices, environment: dict[str, str], procfile: Path) -> list[Service]:
    named = read_procfile(procfile, environment)
    wanted = [*named, SANDBOX] if choices.processes is None else list(choices.processes)
    services: list[Service] = []
    for name in wanted:
        if name == SANDBOX:
            url = f"http://{ports.LOOPBACK}:{choices.sandbox_port}/health"
            services.append(Service(SANDBOX, _SANDBOX_COMMAND, ready_url=url, port=choices.sandbox_port))
        elif name not in named:
            raise DevstackError(f"{procfile.name} has no process {name!r}")
        elif name == WEB:
            services += [_web(number, port, named[WEB]) for number, port in enumerate(choices.web_ports, start=1)]
        else:
            services.append(Service(name, named[name], ready_text=_READY_TEXTS.get(name)))
    return services


def _web(number: int, port: int, command: list[str]) -> Service:
    return Service(
        name=WEB if number == 1 else f"{WEB}-{number}",
        command=command,
        environment={"PORT": str(port)},
        ready_url=f"http://{ports.LOOPBACK}:{port}/ready",
        port=port,
    )


def require_free_ports(choices: Choices) -> None:
    """Check that the ports of all processes to start are free. Raises `DevstackError` naming the taken port and its
    variable."""
    if choices.processes is None or WEB in choices.processes:
        host = choices.person.get("HOST") or ports.LOOPBACK
        for port in choices.web_ports:
            ports.require_free(port, variable="PORT", host=host)
    if choices.processes is None or SANDBOX in choices.processes:
        ports.require_free(choices.sandbox_port, variable="SANDBOX_PORT")
