"""Seeds users, their integrations, and services: `python -m benchmarks.seeding profiles|connected|granted|service …`.

Runs as a process of its own, in the environment of the service, and goes through the service's own code: what it writes
is what the service would have written. Where it makes a service, the last line it prints is the service key.
"""

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.principal import system
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.queries import integration as integration_queries
from services.user_management.queries.integration import Consent
from services.user_management.queries.user_rows import UserColumns
from services.user_management.services.token_service import store_tokens
from services.user_management.settings import Settings, get_settings
from services.user_management.tests.actors import TESTER
from services.user_management.unit_of_work import UnitOfWork

PROVIDER: Final = "google"
SCOPE: Final = "https://www.googleapis.com/auth/calendar.readonly"
_GRANTED: Final = ("email", SCOPE, "openid")
_SERVICE: Final = "benchmark"
_BATCH: Final = 250
_ACCESS_BYTES, _REFRESH_BYTES = 110, 52  # in hex about as long as Google's: 220 and 104 characters
_LIFETIME_SECONDS: Final = 7 * 86_400.0
"""Lifetime of an access token: longer than any run, so that no read finds an expired one and no provider is called."""


@dataclass(frozen=True, slots=True)
class SeededUser:
    """One seeded user."""

    id: str
    email: str

    @classmethod
    def numbered(cls, number: int) -> "SeededUser":
        """Return the user `number`, with an id of the form that Clerk gives."""
        return cls(f"user_{number:027d}", f"person{number}@example.com")

    @property
    def profile(self) -> UserColumns:
        """The columns of the user's profile, with values of usual length."""
        return {
            "email": self.email,
            "email_normalized": self.email,
            "email_verified": True,
            "first_name": "Person",
            "last_name": self.id[-6:],
            "profile_image_url": f"https://img.example.com/{self.id}",
            "phone": "+41446681800",
        }


@dataclass(frozen=True, slots=True)
class Granted:
    """A provider's token answer for one user's account: one line of the file that the command `granted` reads.

    `user` is the user's number, and lines of the same user must follow one another. `expires_in` is in seconds.
    """

    user: int
    provider: str
    account: str
    scope: str
    access_token: str
    refresh_token: str
    expires_in: float


def seeded_users(count: int) -> Iterator[SeededUser]:
    """Yield the users of a deployment that was seeded with `count` users."""
    return (SeededUser.numbered(number) for number in range(count))


async def seed_profiles(settings: Settings, count: int) -> None:
    """Seed `count` users without integrations, in a migrated database without users."""
    async with _started(settings) as container:
        for users in _batches(count):
            async with container.resources.unit_of_work(TESTER) as uow:
                for user in users:
                    await _create_user(container, uow, user)


async def seed_connected(settings: Settings, count: int, tokens: random.Random) -> str:
    """Seed `count` users with an integration at Google each, whose tokens are drawn from `tokens`, and a service that
    may read them; return the service's key."""
    async with _started(settings) as container:
        for users in _batches(count):
            await _connect_users(container, users, tokens)
        key = await container.service_clients.create_service(TESTER, _SERVICE)
        await container.service_clients.grant(TESTER, _SERVICE, PROVIDER, scopes=[SCOPE], reason_required=False)
    return key


async def seed_service(settings: Settings, permissions: Sequence[str]) -> str:
    """Create a service with `permissions` and return its key."""
    async with _started(settings) as container:
        return await container.service_clients.create_service(TESTER, _SERVICE, permissions=permissions)


@asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[Container]:
    container = Container(settings)
    await container.start()
    try:
        yield container
    finally:
        await container.stop()


def _batches(count: int) -> Iterator[list[SeededUser]]:
    users = list(seeded_users(count))
    return (users[start : start + _BATCH] for start in range(0, count, _BATCH))


async def _create_user(container: Container, uow: UnitOfWork, user: SeededUser) -> None:
    issuer = container.resources.settings.clerk.issuer
    await container.users.upstream.create(uow, issuer=issuer, subject=user.id, profile=user.profile)


async def _connect_users(container: Container, users: Sequence[SeededUser], tokens: random.Random) -> None:
    key_version = await container.keys.vault.active_version()
    async with container.resources.unit_of_work(TESTER) as uow:
        for user in users:
            await _create_user(container, uow, user)
            consent = _consent(f"account-{user.id}", user, _GRANTED)
            connected = await integration_queries.connect(
                uow.connection, user_id=user.id, provider=PROVIDER, consent=consent
            )
            grant = _grant(uow, tokens)
            await store_tokens(
                uow, container.keys.vault, grant, user_id=user.id, integration_id=connected.id, key_version=key_version
            )


async def connect_granted(settings: Settings, granted: Iterable["Granted"]) -> None:
    """Seed the users of `granted` with integrations whose tokens a provider has issued. Entries of the same user must
    follow one another."""
    async with _started(settings) as container:
        for number, of_user in groupby(granted, key=lambda grant: grant.user):
            async with container.resources.unit_of_work(TESTER) as uow:
                user = SeededUser.numbered(number)
                await _create_user(container, uow, user)
                for grant in of_user:
                    await _store_granted(container, uow, user, grant)


async def _store_granted(container: Container, uow: UnitOfWork, user: SeededUser, granted: "Granted") -> None:
    scopes = tuple(granted.scope.split())
    key_version = await container.keys.vault.active_version()
    connected = await integration_queries.connect(
        uow.connection, user_id=user.id, provider=granted.provider, consent=_consent(granted.account, user, scopes)
    )
    grant = TokenAnswer(
        access_token=granted.access_token,
        refresh_token=granted.refresh_token,
        lifetime_seconds=granted.expires_in,
        scopes=scopes,
        sent_at=uow.clock.monotonic(),
    )
    await store_tokens(
        uow, container.keys.vault, grant, user_id=user.id, integration_id=connected.id, key_version=key_version
    )


def _consent(account: str, user: SeededUser, scopes: tuple[str, ...]) -> Consent:
    return Consent(
        account_id=account, account_email=user.email, granted=scopes, requested=scopes, clock_skew_seconds=None
    )


def _grant(uow: UnitOfWork, tokens: random.Random) -> TokenAnswer:
    return TokenAnswer(
        access_token=tokens.randbytes(_ACCESS_BYTES).hex(),
        refresh_token=tokens.randbytes(_REFRESH_BYTES).hex(),
        lifetime_seconds=_LIFETIME_SECONDS,
        scopes=_GRANTED,
        sent_at=uow.clock.monotonic(),
    )


def _granted_in(file: str) -> list[Granted]:
    return [Granted(**json.loads(line)) for line in Path(file).read_text().splitlines()]


async def _seed(arguments: argparse.Namespace) -> str:
    """Seed what the arguments name; return the key of the service that was made, or an empty string if none was."""
    settings = get_settings()
    if arguments.what == "service":
        return await seed_service(settings, arguments.permissions)
    if arguments.what == "granted":
        await connect_granted(settings, arguments.granted)
        return ""
    if arguments.what == "connected":
        tokens = random.Random(arguments.seed)  # noqa: S311 - tokens of nobody, the same for the same seed
        return await seed_connected(settings, arguments.users, tokens)
    await seed_profiles(settings, arguments.users)
    return ""


def main() -> None:
    """Seed what the command line names in the database of the environment, and print the key of the service that was
    made, or an empty line if none was."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeding")
    whats = parser.add_subparsers(dest="what", required=True)
    profiles = whats.add_parser("profiles")
    profiles.add_argument("users", type=int)
    connected = whats.add_parser("connected")
    connected.add_argument("users", type=int)
    connected.add_argument("seed", type=int)
    granted = whats.add_parser("granted")
    granted.add_argument("granted", type=_granted_in, metavar="FILE", help="a line of JSON for each integration")
    service = whats.add_parser("service")
    service.add_argument("permissions", nargs="*")
    with use_context(RequestContext(request_id="seeding", actor=system("benchmark"))):
        print(asyncio.run(_seed(parser.parse_args())))


if __name__ == "__main__":
    main()
