"""Connections that tests need many of or in other shapes: further accounts, providers with other files, processes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from services.devstack.main_job import Person, expect, flow_ticket
from services.sandbox.providers import CLIENT_ID, Kind, provider_file, provider_name
from services.user_management.container import Container
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import Registration, load_providers
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.token_service import RefreshAttempts, RefreshJobs, TokenRefresher
from services.user_management.tests.journey import Journey

PROVIDER: Final = "sandbox-static"
WORK: Final = "work@example.com"
"""Another account of Ada at the provider."""
CONNECT_PAGE: Final = "http://localhost:3000/connect/"


async def returned_flow(
    journey: Journey, person: Person, account: str | None = None, provider: str = PROVIDER, **body: Any
) -> str:
    """The ticket of a flow that the provider has returned to; what is left is to confirm it."""
    started = await journey.authorize(person, provider, **body)
    location = await journey.consent(started["authorization_url"], account=account or person.email)
    return flow_ticket(expect(await journey.callback(location), 303))


async def connect_account(
    journey: Journey, person: Person, account: str, provider: str = PROVIDER, **body: Any
) -> dict[str, Any]:
    """Connect `account`, whatever the person's e-mail here is."""
    ticket = await returned_flow(journey, person, account, provider, **body)
    connection: dict[str, Any] = expect(await journey.confirm(person, provider, flow=ticket), 201).json()
    return connection


@contextmanager
def offering(
    container: Container,
    folder: Path,
    kind: Kind = "static",
    *,
    keys: str = "",
    tables: str = "",
    without: Iterable[str] = (),
) -> Iterator[None]:
    """For a while the operator's file of a sandbox provider has further `keys` and `tables`, and lacks others."""
    name = provider_name(kind)
    registry = container.providers
    former = registry.get(name)
    dropped = tuple(f"{key} = " for key in without)
    lines = [
        line
        for line in provider_file(kind, container.settings.clerk.issuer.rpartition("/")[0]).splitlines()
        if not line.startswith(dropped or "\0")
    ]
    lines.insert(lines.index("pkce = true"), keys)
    (folder / f"{name}.toml").write_text("\n".join([*lines, tables]), encoding="utf-8")
    read = load_providers([folder], {name: Registration(CLIENT_ID, former.client_secret)})
    registry._providers[name] = read.get(name)
    try:
        yield
    finally:
        registry._providers[name] = former


def forget_failures(container: Container) -> None:
    """No circuit breaker is open, whatever tests before did to the providers."""
    container.connect_flows._oauth.gate._entrances.clear()


def refresher_elsewhere(container: Container) -> TokenRefresher:
    """The refresher of another process: it shares the database with ours, and nothing else."""
    attempts = RefreshAttempts(
        unit_of_work=container.unit_of_work,
        providers=container.providers,
        oauth=OAuthClient(container.http, container.clock),
        vault=container.vault,
        status=IntegrationStatusTracker(),
        clock=container.clock,
    )
    return TokenRefresher(
        database=container.database,
        unit_of_work=container.unit_of_work,
        providers=container.providers,
        attempts=attempts,
        clock=container.clock,
    )


def refresh_jobs(container: Container, refresher: TokenRefresher, *, spread_seconds: float = 0.0) -> RefreshJobs:
    """The periodic jobs of a process."""
    return RefreshJobs(
        database=container.database,
        refresher=refresher,
        clock=container.clock,
        is_stopping=lambda: False,
        spread_seconds=spread_seconds,
    )


async def stored_rows(owner: "asyncpg.Connection[asyncpg.Record]") -> list[tuple[Any, ...]]:
    """Every connection and every token, to be compared before and after."""
    found = [
        *await owner.fetch("SELECT * FROM integrations ORDER BY id"),
        *await owner.fetch("SELECT * FROM encrypted_tokens ORDER BY id"),
    ]
    return [tuple(row) for row in found]
