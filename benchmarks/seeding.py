"""`python -m benchmarks.seeding N SEED`: N connected users, and a sibling service that may read their tokens.

Runs as a process of its own, in the environment of the service, and goes through the service's own code: what it
writes is what the service would have written. The service key is the last line it prints.
"""

import argparse
import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.principal import system
from services.user_management.integrations.oauth_client import TokenGrant
from services.user_management.queries import integration as integration_queries
from services.user_management.services.token_service import store_tokens
from services.user_management.settings import Settings, get_settings
from services.user_management.unit_of_work import UnitOfWork

PROVIDER: Final = "google"
SCOPE: Final = "https://www.googleapis.com/auth/calendar.readonly"
_GRANTED: Final = ("email", SCOPE, "openid")
_SERVICE: Final = "benchmark"
_BATCH: Final = 250
_ACCESS_BYTES, _REFRESH_BYTES = 110, 52  # in hex about as long as Google's: 220 and 104 characters
_LIFETIME_SECONDS: Final = 7 * 86_400.0
"""Far beyond any run: no read is stale, so no provider is called."""


@dataclass(frozen=True, slots=True)
class SeededUser:
    """One connected user."""

    id: str
    email: str

    @classmethod
    def numbered(cls, number: int) -> "SeededUser":
        """The user `number`, as Clerk would name them."""
        return cls(f"user_{number:027d}", f"person{number}@example.com")


def seeded_users(count: int) -> Iterator[SeededUser]:
    """The users of a deployment that was seeded with `count`."""
    return (SeededUser.numbered(number) for number in range(count))


async def seed(settings: Settings, *, count: int, tokens: random.Random) -> str:
    """Fill an empty, migrated database; the service key."""
    container = Container(settings)
    await container.start()
    try:
        users = list(seeded_users(count))
        for start in range(0, count, _BATCH):
            await _connect_users(container, users[start : start + _BATCH], tokens)
        key = await container.service_clients.create_service(_SERVICE)
        await container.service_clients.grant(_SERVICE, PROVIDER, scopes=[SCOPE], reason_required=False)
    finally:
        await container.stop()
    return key


async def _connect_users(container: Container, users: list[SeededUser], tokens: random.Random) -> None:
    key_version = await container.vault.active_version()
    issuer = container.settings.clerk.issuer
    async with container.unit_of_work() as uow:
        for user in users:
            profile = {"email": user.email, "email_normalized": user.email}
            await container.users.create(uow, issuer=issuer, subject=user.id, profile=profile)
            connected = await integration_queries.connect(
                uow.connection,
                user_id=user.id,
                provider=PROVIDER,
                account=(f"account-{user.id}", user.email),
                scopes=_GRANTED,
            )
            grant = _grant(uow, tokens)
            await store_tokens(
                uow, container.vault, grant, user_id=user.id, integration_id=connected.id, key_version=key_version
            )


def _grant(uow: UnitOfWork, tokens: random.Random) -> TokenGrant:
    return TokenGrant(
        access_token=tokens.randbytes(_ACCESS_BYTES).hex(),
        refresh_token=tokens.randbytes(_REFRESH_BYTES).hex(),
        lifetime_seconds=_LIFETIME_SECONDS,
        scopes=_GRANTED,
        sent_at=uow.clock.monotonic(),
    )


def main() -> None:
    """Seed the database of the environment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeding")
    parser.add_argument("users", type=int)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    tokens = random.Random(arguments.seed)  # noqa: S311 - tokens of nobody, the same for the same seed
    with use_context(RequestContext(request_id="seeding", actor=system("benchmark"))):
        print(asyncio.run(seed(get_settings(), count=arguments.users, tokens=tokens)))


if __name__ == "__main__":
    main()
