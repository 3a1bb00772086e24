"""Tests of the re-encryption of all values under a former key version, wherever they are stored, without a lost update;
and of the retirement of the version."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.user_management.container import Container
from services.user_management.core import failpoints
from services.user_management.core.failpoints import Failpoint, FailpointReached
from services.user_management.enums import TokenKind
from services.user_management.exceptions import ConflictError, NotFoundError
from services.user_management.queries import encryption_key as key_queries
from services.user_management.services import key_rotation_service, slice_time
from services.user_management.services.key_rotation_service import KeyRotationService, Progress
from services.user_management.services.vault_service import (
    POISON_LIMIT_PER_MINUTE,
    VaultService,
    code_binding,
    token_binding,
    webhook_secret_binding,
)
from services.user_management.tests.actors import TESTER
from services.user_management.tests.fleets import SECOND_ROOT, holding, rotation_with, vault_of_both, vault_with
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, audit_actions

pytestmark = pytest.mark.slow

Owner = asyncpg.Connection

REVOCATION = """
INSERT INTO token_revocations
    (id, integration_id, user_id, provider, provider_account_id, kind, ciphertext, key_version, state, attempts,
     requested_at)
VALUES ($1, $2, $3, 'sandbox-static', '1', 'refresh', $4, 1, 'pending', 0, now())
"""
SUBSCRIPTION = """
INSERT INTO webhook_subscriptions
    (id, created_by, url, event_types, secret_ciphertext, secret_key_version, former_secret_ciphertext,
     former_secret_key_version, former_secret_until, status, last_sequence, version, created_at, updated_at)
VALUES ($1, 'x', 'https://hooks.example.com', '[]', $2, 1, $3, 1, now() + interval '1 day', 'active', 0, 1, now(),
        now())
"""
CODE = """
UPDATE oauth_flows SET code_ciphertext = $2, code_key_version = 1, status = 'returned', consumed_at = NULL,
    expires_at = now() + interval '5 minutes'
WHERE id = $1
"""
VERSIONS = "SELECT key_version FROM encrypted_tokens ORDER BY kind, id"


@pytest.fixture
async def both(container: Container, clean_database: None) -> VaultService:
    """Give the vault of a process that holds the key versions 1 and 2, of which 1 is still the active one."""
    return await vault_of_both(container)


@pytest.fixture
def rotation(container: Container, both: VaultService) -> KeyRotationService:
    return rotation_with(container, both)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


async def people(journey: Journey, count: int) -> list[Connected]:
    """Make `count` users, each with an integration that has two tokens."""
    first = await Connected.at(journey)
    others = [
        await Connected.at(journey, email=f"person{number}@example.com", key=first.key) for number in range(1, count)
    ]
    return [first, *others]


async def token_versions(journey: Journey) -> list[int]:
    return [row["key_version"] for row in await journey.owner.fetch(VERSIONS)]


async def settle(journey: Journey) -> None:
    """Move the activation of the key versions five minutes into the past."""
    await journey.owner.execute("UPDATE encryption_keys SET activated_at = activated_at - interval '5 minutes'")


def silently(_progress: Progress) -> None:
    """Report no progress."""


async def test_every_place_is_encrypted_anew_and_still_reads_the_same(
    connected: Connected, container: Container, both: VaultService, rotation: KeyRotationService
) -> None:
    owner, user_id = connected.journey.owner, connected.user_id
    revocation, integration, subscription = uuid4(), UUID(connected.integration_id), uuid4()
    token, secret = token_binding(user_id, integration, TokenKind.REFRESH), webhook_secret_binding(subscription)
    await owner.execute(REVOCATION, revocation, integration, user_id, both.seal("to revoke", token, 1))
    await owner.execute(SUBSCRIPTION, subscription, both.seal("signs", secret, 1), both.seal("signed", secret, 1))
    await both.activate(TESTER, 2)

    left = await rotation.rewrap(TESTER)

    assert left is None
    assert await token_versions(connected.journey) == [2, 2]
    (row,) = await owner.fetch("SELECT ciphertext, key_version FROM token_revocations")
    assert (both.open(row["ciphertext"], token, 2), row["key_version"]) == ("to revoke", 2)
    (row,) = await owner.fetch("SELECT * FROM webhook_subscriptions")
    assert (both.open(row["secret_ciphertext"], secret, 2), row["secret_key_version"]) == ("signs", 2)
    assert (both.open(row["former_secret_ciphertext"], secret, 2), row["former_secret_key_version"]) == ("signed", 2)
    with holding(container, both):
        assert (await connected.get()).status_code == 200
        await connected.journey.age_tokens()
        assert (await connected.get()).json()["refreshed"] is True


async def test_nothing_to_do_is_one_statement(
    connected: Connected, rotation: KeyRotationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def note(*_: Any, **__: Any) -> list[Any]:
        asked.append("rows")
        return []

    monkeypatch.setattr(key_queries, "secrets_under", note)

    assert await rotation.rewrap(TESTER) is None
    assert asked == []


async def test_slice_hands_on_where_it_stopped_and_the_next_one_goes_on_there(
    journey: Journey, rotation: KeyRotationService, both: VaultService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(journey, 3)
    await both.activate(TESTER, 2)
    monkeypatch.setattr(key_rotation_service, "BATCH", 2)
    monkeypatch.setattr(slice_time, "SLICE_SECONDS", 0.0)

    cursor, slices = await rotation.rewrap(TESTER), 1
    while cursor is not None:
        assert (cursor["place"], cursor["version"]) == ("tokens", 1)
        cursor, slices = await rotation.rewrap(TESTER, cursor), slices + 1

    assert slices >= 3
    assert await token_versions(journey) == [2] * 6


async def test_token_that_is_stored_while_its_row_is_encrypted_anew_is_not_overwritten(
    connected: Connected, rotation: KeyRotationService, both: VaultService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.activate(TESTER, 2)
    binding = token_binding(connected.user_id, UUID(connected.integration_id), TokenKind.ACCESS)
    newer = both.seal("newer", binding, 1)
    replace_secrets = key_queries.replace_secrets

    async def overtaken(*arguments: Any, **options: Any) -> int:
        await connected.store("access", newer)
        return await replace_secrets(*arguments, **options)

    monkeypatch.setattr(key_queries, "replace_secrets", overtaken)
    await rotation.rewrap(TESTER)
    first = await connected.ciphertext("access"), await token_versions(connected.journey)
    monkeypatch.setattr(key_queries, "replace_secrets", replace_secrets)
    await rotation.rewrap(TESTER)

    assert first == (newer, [1, 2])
    assert both.open(await connected.ciphertext("access"), binding, 2) == "newer"


async def test_row_that_somebody_is_writing_is_not_waited_for(
    connected: Connected, rotation: KeyRotationService, both: VaultService
) -> None:
    await both.activate(TESTER, 2)
    owner = connected.journey.owner

    async with asyncio.timeout(4), owner.transaction():
        await owner.execute("SELECT FROM encrypted_tokens WHERE kind = 'access' FOR UPDATE")
        await rotation.rewrap(TESTER)
        during = await token_versions(connected.journey)
    await rotation.rewrap(TESTER)

    assert during == [1, 2]
    assert await token_versions(connected.journey) == [2, 2]


@pytest.mark.parametrize("point", [Failpoint.ROTATION_SEALED, Failpoint.ROTATION_STORED])
async def test_rotation_that_breaks_off_is_gone_on_with(
    journey: Journey,
    rotation: KeyRotationService,
    both: VaultService,
    point: Failpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenes = await people(journey, 2)
    await both.activate(TESTER, 2)
    monkeypatch.setattr(key_rotation_service, "BATCH", 1)
    failpoints.arm(f"{point}:raise:2")

    with pytest.raises(FailpointReached):
        await rotation.rewrap(TESTER)
    kept = sorted(await token_versions(journey))
    progress = await rotation.rewrap_all(TESTER, silently)

    assert kept == ([1, 1, 1, 2] if point is Failpoint.ROTATION_SEALED else [1, 1, 2, 2])
    assert (progress.done, progress.left) == (4 - kept.count(2), 0)
    with holding(journey.container, both):
        assert [(await scene.get()).status_code for scene in scenes] == [200, 200]


async def test_unreadable_row_costs_its_connection_once_and_the_others_nothing(
    journey: Journey, rotation: KeyRotationService, both: VaultService
) -> None:
    damaged, good = await people(journey, 2)
    await both.activate(TESTER, 2)
    await damaged.store("access", (await damaged.ciphertext("access"))[:-1])

    for _ in range(3):
        assert await rotation.rewrap(TESTER) is None

    row = await damaged.row()
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "token_unreadable")
    assert (await good.row())["status"] == "active"
    assert sorted(await token_versions(journey)) == [1, 2, 2, 2]
    assert (await audit_actions(journey)).count("integration.needs_reauth") == 1
    first, second = await rotation.status(TESTER)
    assert (first.holds["tokens"], first.unreadable, second.unreadable) == (1, 1, None)


async def test_damage_of_many_at_once_stops_the_rotation(
    journey: Journey, rotation: KeyRotationService, both: VaultService
) -> None:
    scenes = await people(journey, POISON_LIMIT_PER_MINUTE + 2)
    await both.activate(TESTER, 2)
    await journey.owner.execute("UPDATE encrypted_tokens SET ciphertext = '\\x00' WHERE kind = 'access'")

    with pytest.raises(ConflictError, match="look for the cause"):
        await rotation.rewrap_all(TESTER, silently)

    statuses = [(await scene.row())["status"] for scene in scenes]
    assert statuses.count("needs_reauth") == POISON_LIMIT_PER_MINUTE
    assert statuses.count("active") == 2


async def test_version_that_is_not_held_here_is_left_alone(connected: Connected, container: Container) -> None:
    await (await vault_of_both(container)).activate(TESTER, 2)
    without_first = rotation_with(container, await vault_with(container, {2: SECOND_ROOT}))
    without_second = rotation_with(container, container.keys.vault)
    before = await connected.ciphertext("access"), await connected.ciphertext("refresh")

    assert await without_first.rewrap(TESTER) is None
    assert await without_second.rewrap(TESTER) is None

    assert (await connected.ciphertext("access"), await connected.ciphertext("refresh")) == before
    assert (await connected.row())["status"] == "active"
    (first, second) = await without_first.status(TESTER)
    assert (first.held, first.canary_good, first.unreadable) == (False, False, None)
    assert (second.held, second.canary_good) == (True, True)


async def test_wrong_secret_under_a_held_number_marks_nobody(connected: Connected, container: Container) -> None:
    await (await vault_of_both(container)).activate(TESTER, 2)
    wrong = rotation_with(container, await vault_with(container, {1: b"x" * 32, 2: SECOND_ROOT}))

    assert await wrong.rewrap(TESTER) is None

    assert (await connected.row())["status"] == "active"
    assert await token_versions(connected.journey) == [1, 1]
    assert [row.canary_good for row in await wrong.status(TESTER)] == [False, True]


async def test_version_is_retired_once_nothing_is_under_it(
    connected: Connected, container: Container, both: VaultService, rotation: KeyRotationService
) -> None:
    await both.activate(TESTER, 2)
    await rotation.rewrap(TESTER)
    await settle(connected.journey)

    await rotation.retire(TESTER, 1)
    await rotation.retire(TESTER, 1)

    states = {row.version: row.state for row in await rotation.status(TESTER)}
    assert states == {1: "retired", 2: "active"}
    assert (await audit_actions(connected.journey)).count("encryption_key.retired") == 1
    await (await vault_with(container, {2: SECOND_ROOT})).prove_keys(TESTER)


async def test_version_in_use_is_not_retired(
    connected: Connected, both: VaultService, rotation: KeyRotationService
) -> None:
    with pytest.raises(NotFoundError):
        await rotation.retire(TESTER, 9)
    with pytest.raises(ConflictError, match="Version 1 is active"):
        await rotation.retire(TESTER, 1)
    await both.activate(TESTER, 2)
    with pytest.raises(ConflictError, match="may still be storing"):
        await rotation.retire(TESTER, 1)
    await settle(connected.journey)
    with pytest.raises(ConflictError, match="still in use: 2 tokens; re-encrypt"):
        await rotation.retire(TESTER, 1)

    assert [row.state for row in await rotation.status(TESTER)] == ["decrypt_only", "active"]


async def test_code_that_waits_for_its_user_keeps_its_version(
    journey: Journey, both: VaultService, rotation: KeyRotationService
) -> None:
    started = await journey.authorize(ada := await journey.sign_up())
    flow = UUID(started["flow_id"])
    await journey.owner.execute(CODE, flow, both.seal("a code", code_binding(ada.id, flow), 1))
    await both.activate(TESTER, 2)
    await rotation.rewrap(TESTER)
    await settle(journey)

    with pytest.raises(ConflictError, match="still in use: 1 codes"):
        await rotation.retire(TESTER, 1)
    await journey.owner.execute("UPDATE oauth_flows SET expires_at = now()")
    await rotation.retire(TESTER, 1)

    assert (await rotation.status(TESTER))[0].state == "retired"


async def test_retiring_waits_for_whoever_is_storing_under_the_version(
    connected: Connected, both: VaultService, rotation: KeyRotationService
) -> None:
    await both.activate(TESTER, 2)
    await rotation.rewrap(TESTER)
    await settle(connected.journey)
    owner = connected.journey.owner

    async with owner.transaction():
        await owner.execute("UPDATE encrypted_tokens SET key_version = 1 WHERE kind = 'access'")
        retiring = asyncio.create_task(rotation.retire(TESTER, 1))
        done, _ = await asyncio.wait([retiring], timeout=0.3)

    assert done == set()
    with pytest.raises(ConflictError, match="1 tokens"):
        await retiring


async def test_unreadable_rows_are_discarded_when_the_operator_says_so(
    journey: Journey, rotation: KeyRotationService, both: VaultService
) -> None:
    damaged, good = await people(journey, 2)
    subscription = uuid4()
    secret = both.seal("signs", webhook_secret_binding(subscription), 1)
    await journey.owner.execute(SUBSCRIPTION, subscription, secret, b"damaged")
    await journey.owner.execute(REVOCATION, uuid4(), UUID(good.integration_id), good.user_id, b"damaged")
    await damaged.store("access", b"damaged")
    await both.activate(TESTER, 2)
    await rotation.rewrap(TESTER)
    await settle(journey)

    with pytest.raises(ConflictError, match="1 tokens, 1 revocations, 1 former webhook secrets"):
        await rotation.retire(TESTER, 1)
    discarded = await rotation.retire(TESTER, 1, discard_unreadable=True)

    assert discarded == {"tokens": 1, "revocations": 1, "former webhook secrets": 1}
    assert await token_versions(journey) == [2, 2, 2]
    (row,) = await journey.owner.fetch("SELECT state, ciphertext, key_version FROM token_revocations")
    assert tuple(row) == ("impossible", None, None)
    assert (await damaged.row())["status"] == "needs_reauth"
    assert (await good.row())["status"] == "active"


@pytest.mark.parametrize("place", ["tokens", "revocations"])
async def test_discarding_keeps_what_took_the_place_of_an_unreadable_one(
    connected: Connected,
    rotation: KeyRotationService,
    both: VaultService,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    owner, integration = connected.journey.owner, UUID(connected.integration_id)
    binding = token_binding(connected.user_id, integration, TokenKind.REFRESH)
    table = "encrypted_tokens" if place == "tokens" else "token_revocations"
    store = f"UPDATE {table} SET ciphertext = $1 WHERE kind = 'refresh'"  # noqa: S608 - our own table names
    look = f"SELECT ciphertext FROM {table} WHERE kind = 'refresh'"  # noqa: S608 - our own table names
    newer = both.seal("newer", binding, 1)
    await owner.execute(REVOCATION, uuid4(), integration, connected.user_id, both.seal("to revoke", binding, 1))
    await owner.execute(store, b"damaged")
    await both.activate(TESTER, 2)
    await rotation.rewrap(TESTER)
    await settle(connected.journey)
    lock_key = key_queries.lock_key

    async def overtaken(*arguments: Any) -> tuple[str, float] | None:
        await owner.execute(store, newer)
        return await lock_key(*arguments)

    monkeypatch.setattr(key_queries, "lock_key", overtaken)
    with pytest.raises(ConflictError, match=f"1 {place}; re-encrypt"):
        await rotation.retire(TESTER, 1, discard_unreadable=True)

    assert both.open(await owner.fetchval(look), binding, 1) == "newer"


async def test_discarding_keeps_what_can_be_read(
    journey: Journey, rotation: KeyRotationService, both: VaultService
) -> None:
    damaged, _ = await people(journey, 2)
    await both.activate(TESTER, 2)
    await damaged.store("access", b"damaged")
    await settle(journey)

    with pytest.raises(ConflictError, match="3 tokens"):
        await rotation.retire(TESTER, 1, discard_unreadable=True)

    assert await token_versions(journey) == [1, 1, 1, 1]
    assert (await rotation.status(TESTER))[0].state == "decrypt_only"
