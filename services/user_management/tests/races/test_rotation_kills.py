"""A rotation of the encryption keys (`cli keys rewrap`) is killed at any row, while new tokens are stored in the same
rows, as refreshes store them: nothing is lost or unreadable."""

import asyncio
import base64
import itertools
import json
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from services.conftest import Servers
from services.devstack import process
from services.devstack.child import Child
from services.devstack.running_service import REPOSITORY
from services.user_management.container import Container
from services.user_management.core.failpoints import Failpoint
from services.user_management.core.ids import uuid7
from services.user_management.enums import TokenKind
from services.user_management.queries.token_refresh import NewToken, put_token
from services.user_management.security.encryption import TokenEncryption
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.settings import DEVELOPMENT_SECRET
from services.user_management.tests.actors import TESTER
from services.user_management.tests.races.conftest import until

pytestmark = pytest.mark.serial

EXERCISED: Final = (Failpoint.ROTATION_SEALED, Failpoint.ROTATION_STORED)
"""The failpoints at which the tests of this file kill a rotation."""
SECRETS: Final = {1: DEVELOPMENT_SECRET.encode()[:32], 2: b"2" * 32}
CONNECTIONS: Final = 800
WRITERS: Final = 3
ATTEMPTS: Final = 5
FEW_LEFT: Final = 1300
"""With fewer rows than this left to rotate, the other version is activated, so that the next rotation has work."""
END_SECONDS: Final = 60.0
PEOPLE: Final = """
WITH made AS (
    INSERT INTO users (id, email_verified, status, onboarding_completed, local_fields, version, created_at, updated_at)
    SELECT 'user_' || number, false, 'active', false, '[]', 1, now(), now() FROM generate_series(1, $1) AS number
    RETURNING id
)
INSERT INTO integrations
    (id, user_id, provider, provider_account_id, is_primary, status, status_changed_at, granted_scopes, token_version,
     refresh_attempts, refresh_failures, connected_at, version, created_at, updated_at)
SELECT gen_random_uuid(), id, 'sandbox-static', '1', true, 'active', now(), '[]', 1, 0, 0, now(), 1, now(), now()
FROM made RETURNING id, user_id
"""
TOKEN: Final = """
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at)
VALUES ($1, $2, $3, $4, 1, now())
"""
SWAP: Final = """
UPDATE encryption_keys SET state = 'decrypt_only';
UPDATE encryption_keys SET state = 'active' WHERE version = {version}
"""
ACTIVE: Final = "SELECT version FROM encryption_keys WHERE state = 'active'"
LEFT: Final = "SELECT count(*) FROM encrypted_tokens WHERE key_version <> $1"


@dataclass
class Tokens:
    """The stored tokens, and what they have to decrypt to."""

    container: Container
    owner: "asyncpg.Connection[asyncpg.Record]"
    vault: VaultService
    people: list[tuple[UUID, str]] = field(default_factory=list)
    expected: dict[tuple[UUID, str], str] = field(default_factory=dict)
    stored: int = 0

    async def seed(self) -> None:
        """Make users with one integration each, and store both its tokens under version 1."""
        self.people = [tuple(row) for row in await self.owner.fetch(PEOPLE, CONNECTIONS)]
        rows = []
        for (integration_id, user_id), kind in itertools.product(self.people, TokenKind):
            text = self.expected[integration_id, kind.value] = secrets.token_urlsafe(40)
            sealed = self.vault.seal(text, token_binding(user_id, integration_id, kind), 1)
            rows.append((uuid7(), integration_id, kind.value, sealed))
        await self.owner.executemany(TOKEN, rows)

    async def store(self, chance: random.Random) -> None:
        """Store new tokens as a refresh does at its end: both tokens of one integration, under the active version."""
        integration_id, user_id = self.people.pop(chance.randrange(len(self.people)))
        version = await self.vault.active_version()
        texts = {kind: secrets.token_urlsafe(40) for kind in TokenKind}
        async with self.container.resources.unit_of_work(TESTER) as uow:
            for kind, text in texts.items():
                sealed = self.vault.seal(text, token_binding(user_id, integration_id, kind), version)
                await put_token(uow.connection, integration_id, NewToken(kind, sealed, version, None))
        self.expected |= {(integration_id, kind.value): text for kind, text in texts.items()}
        self.people.append((integration_id, user_id))
        self.stored += 1

    @asynccontextmanager
    async def written(self, chance: random.Random) -> AsyncIterator[None]:
        """During the block, let three writers store new tokens for random integrations, but never two at once for the
        same integration, which the lease prevents in the service."""
        ended = asyncio.Event()

        async def write() -> None:
            while not ended.is_set():
                await self.store(chance)
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write())
            try:
                yield
            finally:
                ended.set()

    async def read(self) -> dict[tuple[UUID, str], str]:
        """Read and decrypt all stored tokens. Raises PoisonedCiphertextError."""
        users = dict(self.people)
        rows = await self.owner.fetch("SELECT integration_id, kind, ciphertext, key_version FROM encrypted_tokens")
        return {
            (row["integration_id"], row["kind"]): self.vault.open(
                row["ciphertext"],
                token_binding(users[row["integration_id"]], row["integration_id"], TokenKind(row["kind"])),
                row["key_version"],
            )
            for row in rows
        }

    async def left(self) -> int:
        """Count the rows that are not under the active version."""
        return int(await self.owner.fetchval(LEFT, await self.owner.fetchval(ACTIVE)))

    async def begin_again_if_done(self) -> None:
        """Activate the other version if fewer than FEW_LEFT rows are left for the next rotation."""
        if await self.left() < FEW_LEFT:
            await self.owner.execute(SWAP.format(version=3 - await self.owner.fetchval(ACTIVE)))


class Rotations:
    """Runs `cli keys rewrap` in processes, of which some are killed."""

    def __init__(self, environment: Mapping[str, str], log: Path, tokens: Tokens) -> None:
        self._environment = environment
        self._log = log
        self._tokens = tokens

    async def killed(self, point: Failpoint | None, chance: random.Random) -> bool:
        """Start a rotation that is killed at `point` or, if that is None, some milliseconds after a hundred rows have
        been rotated. Return whether it was killed: the writers rotate rows too, so it may finish before that."""
        await self._tokens.begin_again_if_done()
        before = await self._tokens.left()
        child = self._start({} if point is None else {"FAILPOINT": f"{point}:kill:{chance.choice((1, 2))}"})
        if point is None:

            async def writes() -> bool:
                return await self._tokens.left() < before - 100

            await until(writes, seconds=END_SECONDS)  # or the writers do
            await asyncio.sleep(chance.uniform(0, 0.04))
            child.send_signal(signal.SIGKILL)
        ended = await asyncio.to_thread(child.wait, END_SECONDS)
        assert ended in {-signal.SIGKILL, 0}, self._log.read_text()[-2000:]
        return ended == -signal.SIGKILL

    async def finished(self) -> int | None:
        """Run a rotation that nobody kills, and return its exit code."""
        return await asyncio.to_thread(self._start({}).wait, END_SECONDS)

    def _start(self, environment: Mapping[str, str]) -> Child:
        command = [sys.executable, "-m", "services.user_management.cli", "keys", "rewrap"]
        with self._log.open("ab") as log:
            return process.spawn(
                command,
                env={**self._environment, **environment},
                cwd=REPOSITORY,
                streams=process.Streams(stdout=log),
            )


@pytest.fixture
async def tokens(container: Container, owner: "asyncpg.Connection[asyncpg.Record]", clean_database: None) -> Tokens:
    salt = container.resources.settings.encryption.salt.get_secret_value().encode()
    vault = VaultService(
        load_keys=lambda: TokenEncryption.from_secrets(SECRETS, salt),
        unit_of_work=container.resources.unit_of_work,
        clock=container.resources.clock,
    )
    await vault.load()
    tokens = Tokens(container, owner, vault)
    await tokens.seed()
    await vault.activate(TESTER, 2)
    return tokens


@pytest.fixture
def rotations(servers: Servers, database_name: str, tokens: Tokens, tmp_path: Path) -> Rotations:
    keys = {str(version): base64.b64encode(secret).decode() for version, secret in SECRETS.items()}
    environment = {
        "PATH": os.environ["PATH"],
        "ENVIRONMENT": "test",
        "DATABASE_URL": servers.url(database_name),
        "REDIS_URL": servers.valkey_url,
        "ENCRYPTION_KEYS": json.dumps(keys),
    }
    return Rotations(environment, tmp_path / "rewrap.log", tokens)


async def killed_at(point: Failpoint | None, rotations: Rotations, chance: random.Random) -> bool:
    """Run rotations until one is killed at `point`, at most ATTEMPTS. Return whether one was."""
    for _ in range(ATTEMPTS):
        if await rotations.killed(point, chance):
            return True
    return False


async def kill_repeatedly(tokens: Tokens, rotations: Rotations, points: list[Failpoint | None]) -> None:
    """Kill one rotation at each of `points` (None: at any moment), in an order that the seed determines, while writers
    store tokens. Then finish the rotation, and check that every row is rotated and holds the token that was stored
    last."""
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    print(f"SEED={seed}, {len(points)} kills")  # noqa: T201 - a failure is repeated by it
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    chance.shuffle(points)

    async with tokens.written(chance):
        for point in points:
            assert await killed_at(point, rotations, chance)
    left_by_the_dead = await tokens.left()
    returncode = await rotations.finished()

    assert (returncode, await tokens.left()) == (0, 0), left_by_the_dead
    assert await tokens.read() == tokens.expected
    assert tokens.stored >= len(points)


async def test_rotation_that_is_killed_loses_nothing(tokens: Tokens, rotations: Rotations) -> None:
    await kill_repeatedly(tokens, rotations, [*EXERCISED, None])


@pytest.mark.nightly
async def test_100_kills_of_a_rotation_lose_nothing(tokens: Tokens, rotations: Rotations) -> None:
    await kill_repeatedly(tokens, rotations, [*EXERCISED] * 35 + [None] * 30)
