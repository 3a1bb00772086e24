"""Helpers for tests of integrations: connected accounts, providers with other files, and the refreshers and jobs of
other processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.devstack.main_job import Person, expect, flow_ticket
from services.sandbox.providers import CLIENT_ID, Kind, provider_file, provider_name
from services.user_management.container import Container
from services.user_management.integrations.oauth_client import OAuthClient
from services.user_management.integrations.oauth_config import Registration, load_providers
from services.user_management.services.integration_service import RevocationService
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.slice_time import SliceTime
from services.user_management.services.token_service import RefreshAttempts, RefreshJobs, TokenRefresher
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, only_row

PROVIDER: Final = "sandbox-static"
WORK: Final = "work@example.com"
"""A second account at the provider, for the test user Ada."""
CONNECT_PAGE: Final = "http://localhost:3000/connect/"


async def returned_flow(
    journey: Journey, person: Person, account: str | None = None, provider: str = PROVIDER, **body: Any
) -> str:
    """Carry out a connect attempt up to the provider's redirect to our callback, and return its ticket; only the
    confirmation is left. `body` are members of the request that starts it."""
    started = await journey.authorize(person, provider, **body)
    location = await journey.consent(started["authorization_url"], account=account or person.email)
    return flow_ticket(expect(await journey.callback(location), 303))


async def connect_account(
    journey: Journey, person: Person, account: str, provider: str = PROVIDER, **body: Any
) -> dict[str, Any]:
    """Connect `account`, which need not have the person's e-mail address, and return the integration. `body` as in
    `returned_flow`."""
    ticket = await returned_flow(journey, person, account, provider, **body)
    connection: dict[str, Any] = expect(await journey.confirm(person, provider, flow=ticket), 201).json()
    return connection


async def connected_to(journey: Journey, provider: str, *, email: str = "ada@example.com") -> Connected:
    """Make a new user's integration with the scopes that `provider` requires, and a service that may read its
    tokens."""
    person = await journey.sign_up(email)
    connection = await connect_account(journey, person, email, provider)
    return Connected(journey, person, str(connection["id"]), provider, await journey.service_key(provider))


async def due_connections(journey: Journey, person: Person, provider: str, count: int) -> list[UUID]:
    """Make `count` integrations whose access tokens expire a minute apart, the first one now, and return their ids in
    this order. All other access tokens in the database expire too."""
    ids = []
    for number in range(count):
        account = f"account-{number}@example.com"
        connection = await connect_account(journey, person, account, provider, new_account=True)
        ids.append(UUID(connection["id"]))
    await journey.age_tokens()
    for minutes, integration_id in enumerate(ids):
        await journey.owner.execute(
            "UPDATE encrypted_tokens SET expires_at = now() + make_interval(mins => $2)"
            " WHERE integration_id = $1 AND kind = 'access'",
            integration_id,
            minutes,
        )
    return ids


@contextmanager
def no_longer_offering(container: Container, provider: str) -> Iterator[None]:
    """Take the provider out of the configuration within the block."""
    providers = container.resources.providers._providers
    former = providers.pop(provider)
    try:
        yield
    finally:
        providers[provider] = former


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
    """Within the block, offer the sandbox provider of `kind` with a changed provider file: `keys` and `tables` (TOML)
    are added, and the keys in `without` left out."""
    name = provider_name(kind)
    registry = container.resources.providers
    former = registry.get(name)
    dropped = tuple(f"{key} = " for key in without)
    lines = [
        line
        for line in provider_file(kind, container.resources.settings.clerk.issuer.rpartition("/")[0]).splitlines()
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
    """Close all circuit breakers, whatever earlier tests did to the providers."""
    container.resources.oauth.gate._entrances.clear()


def refresher_elsewhere(container: Container, *, is_stopping: Callable[[], bool] = lambda: False) -> TokenRefresher:
    """Return a refresher as another process has it: over the same database, with circuit breakers and refreshes of its
    own."""
    oauth = OAuthClient(container.resources.http, container.resources.clock)
    attempts = RefreshAttempts(
        unit_of_work=container.resources.unit_of_work,
        providers=container.resources.providers,
        oauth=oauth,
        vault=container.keys.vault,
        status=IntegrationStatusTracker(),
        clock=container.resources.clock,
    )
    return TokenRefresher(
        database=container.resources.database,
        unit_of_work=container.resources.unit_of_work,
        providers=container.resources.providers,
        attempts=attempts,
        gate=oauth.gate,
        clock=container.resources.clock,
        is_stopping=is_stopping,
    )


def revocation_job(container: Container) -> RevocationService:
    """Return the revocation job as another process has it, with circuit breakers of its own."""
    return RevocationService(
        unit_of_work=container.resources.unit_of_work,
        providers=container.resources.providers,
        oauth=OAuthClient(container.resources.http, container.resources.clock),
        vault=container.keys.vault,
        start_slice=container.resources.start_slice,
    )


def refresh_jobs(
    container: Container,
    refresher: TokenRefresher,
    *,
    spread_seconds: float = 0.0,
    is_stopping: Callable[[], bool] = lambda: False,
) -> RefreshJobs:
    """Return the periodic refresh jobs of the process whose refresher this is."""
    return RefreshJobs(
        database=container.resources.database,
        refresher=refresher,
        start_slice=partial(SliceTime, container.resources.clock, is_stopping),
        spread_seconds=spread_seconds,
    )


async def stored_rows(owner: "asyncpg.Connection[asyncpg.Record]") -> list[tuple[Any, ...]]:
    """Return the rows of all integrations and all tokens, to be compared before and after."""
    found = [
        *await owner.fetch("SELECT * FROM integrations ORDER BY id"),
        *await owner.fetch("SELECT * FROM encrypted_tokens ORDER BY id"),
    ]
    return [tuple(row) for row in found]


async def revocation_of(journey: Journey) -> dict[str, Any]:
    """Return the row of the only revocation. Raises ValueError if there is none, or several."""
    return await only_row(journey, "SELECT * FROM token_revocations")


async def revocation_states(journey: Journey) -> list[str]:
    """List the states of all revocations, in the order in which they were requested."""
    rows = await journey.owner.fetch("SELECT state FROM token_revocations ORDER BY requested_at, id")
    return [row["state"] for row in rows]


async def make_revocations_due(journey: Journey) -> None:
    """End the back-off and the lease of every pending revocation now."""
    await journey.owner.execute(
        "UPDATE token_revocations SET next_attempt_at = now(), lease_until = least(lease_until, now())"
        " WHERE state = 'pending'"
    )
