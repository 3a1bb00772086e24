"""Fixtures that run the service in the test process, on a real Postgres and a real Valkey, with the sandbox in place of
Clerk and the providers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
import structlog
from fastapi import FastAPI

from services.conftest import TEMPLATE, Servers
from services.sandbox.app import create_app as create_sandbox_app
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET, write_provider_files
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.http_client import create_http_client
from services.user_management.logging_config import log_request
from services.user_management.main import create_app
from services.user_management.models import metadata
from services.user_management.services.vault_service import PoisonGuard
from services.user_management.settings import Settings, load_settings
from services.user_management.tests.documented_answers import documented_answers
from services.user_management.tests.integration_scenes import forget_failures
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers

SANDBOX_URL = "http://sandbox.test"
API_URL = "http://testserver"
ADMIN_USER_ID = "user_administrator"


@pytest.fixture(autouse=True)
def plain_tracebacks() -> None:
    """Configure structlog with plain tracebacks, because by default it renders every local variable, which takes
    seconds. Also send the log lines about requests through structlog, so that tests can capture them."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    log_request.write_to(None)


@pytest.fixture(scope="session")
async def database_name(servers: Servers, worker_name: str) -> AsyncIterator[str]:
    """Clone the migrated template database for this pytest worker, and drop the clone at the end; yields its name."""
    name = f"test_{worker_name}"
    administration = await asyncpg.connect(servers.superuser_url("postgres"))
    await administration.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER user_management_owner")
    yield name
    await administration.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administration.close()


@pytest.fixture(scope="session")
async def owner(servers: Servers, database_name: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection with the owner role, for reading rows and for changing their times."""
    connection = await asyncpg.connect(servers.owner_url(database_name))
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def sandbox_session() -> Sandbox:
    return Sandbox(base_url=SANDBOX_URL)


@pytest.fixture(scope="session")
def settings(
    servers: Servers, database_name: str, sandbox_session: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of the test environment. No `.env` is read; the machine's environment variables set only what is not
    set here."""
    providers: Path = tmp_path_factory.mktemp("providers")
    names = write_provider_files(providers, SANDBOX_URL)
    clients = {name: {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET} for name in names}
    return load_settings(
        _env_file=None,
        environment="test",
        public_url=API_URL,
        database={"url": servers.url(database_name), "pool_size": 10, "door_pool_size": 10},
        redis={"url": servers.valkey_url, "stream": f"events-{database_name}", "channel": f"events-{database_name}"},
        clerk={
            "issuer": sandbox_session.clerk.issuer,
            "api_url": f"{sandbox_session.clerk.issuer}/v1",
            "secret_key": "sk_test_sandbox",
            "webhook_signing_secret": sandbox_session.clerk.webhook_secret,
            "authorized_parties": json.dumps([sandbox_session.clerk.frontend_origin]),
        },
        providers={"dir": str(providers)},
        admin={"user_ids": json.dumps([ADMIN_USER_ID])},
        oauth={"clients": json.dumps(clients)},
        limits=dict.fromkeys(("user", "anonymous", "sign_in", "webhook", "internal"), "1000000/1"),
    )


@pytest.fixture(scope="session")
async def container(settings: Settings, sandbox_session: Sandbox) -> AsyncIterator[Container]:
    """The object graph that all tests of this pytest worker share; its calls to Clerk and providers go to the sandbox.
    There is only one, because deriving the vault's root key takes 0.1 s."""
    transport = httpx.ASGITransport(app=create_sandbox_app(sandbox_session))
    graph = Container(settings, http=create_http_client(transport))
    await graph.start()
    yield graph
    await graph.stop()


@pytest.fixture(scope="session")
def app(settings: Settings, container: Container) -> FastAPI:
    application = create_app(settings, container)
    application.state.container = container
    return application


@pytest.fixture(autouse=True)
def no_surprises_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
async def clean_database(owner: "asyncpg.Connection[asyncpg.Record]", container: Container) -> None:
    """Empty all tables, except for the first encryption key, which `container` registered and which becomes active
    again. Also drop what `container` remembers of earlier tests: failures of providers, unreadable tokens, states of
    users."""
    forget_failures(container)
    container.keys.vault.poison_guard = PoisonGuard(container.resources.clock)
    container.users.states.forget()
    tables = [table.name for table in reversed(metadata.sorted_tables) if table.name != "encryption_keys"]
    statements = [f"DELETE FROM {table}" for table in tables]  # noqa: S608 - our own table names
    statements.append("DELETE FROM encryption_keys WHERE version <> 1")
    statements.append("UPDATE encryption_keys SET state = 'active', retired_at = NULL")
    await owner.execute("; ".join(statements))


@pytest.fixture
def sandbox(sandbox_session: Sandbox) -> Sandbox:
    """The sandbox (Clerk and the providers) that all tests of this pytest worker share, with an empty ledger and no
    faults. Users, consents and settings of earlier tests are still in it."""
    sandbox_session.faults.clear()
    sandbox_session.ledger.clear()
    return sandbox_session


@pytest.fixture
async def client(app: FastAPI, clean_database: None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    hooks = {"response": [documented_answers(app)]}
    async with httpx.AsyncClient(transport=transport, base_url=API_URL, event_hooks=hooks) as http:
        yield http


@pytest.fixture
async def journey(
    client: httpx.AsyncClient,
    sandbox: Sandbox,
    container: Container,
    owner: "asyncpg.Connection[asyncpg.Record]",
) -> AsyncIterator[Journey]:
    """The steps of the main job (from sign-up to a token read), over HTTP."""
    transport = httpx.ASGITransport(app=create_sandbox_app(sandbox))
    async with httpx.AsyncClient(transport=transport, base_url=SANDBOX_URL) as browser:
        yield Journey(client=client, browser=browser, sandbox=sandbox, container=container, owner=owner)


@pytest.fixture
def admin(journey: Journey) -> Headers:
    """Headers with an administrator's session."""
    return journey.headers_of(ADMIN_USER_ID)


@pytest.fixture
async def connected(journey: Journey) -> Connected:
    """A user, Ada, with an integration at `sandbox-static`, and a service that may read its tokens."""
    return await Connected.at(journey)
