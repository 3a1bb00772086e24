"""Tests of key versions: their proof at the start of a process, activation, and processes that do not all hold every
version."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError

from services.user_management.container import Container
from services.user_management.core.clock import OffsetClock
from services.user_management.exceptions import ConflictError, KeyUnavailableError, StartupError
from services.user_management.security.encryption import KEY_BYTES, TokenEncryption
from services.user_management.services.vault_service import VaultService
from services.user_management.tests.actors import TESTER
from services.user_management.tests.fleets import (
    SECOND_ROOT,
    first_root,
    holding,
    rotation_with,
    vault_of_both,
    vault_with,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.races.conftest import until
from services.user_management.tests.scenes import Connected, assert_problem
from services.user_management.unit_of_work import unit_of_work_factory

Owner = asyncpg.Connection
pytestmark = pytest.mark.usefixtures("clean_database")

WAITED_FOR = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
TOKENS = "SELECT encode(ciphertext, 'hex') || key_version FROM encrypted_tokens ORDER BY id"


async def test_process_that_holds_every_version_in_use_may_start(container: Container) -> None:
    await (await vault_of_both(container)).prove_keys(TESTER)


async def test_process_without_a_version_in_use_is_refused_by_name(container: Container) -> None:
    with pytest.raises(StartupError, match="version 1 is in use and not given"):
        await (await vault_with(container, {2: SECOND_ROOT})).prove_keys(TESTER)


async def test_process_with_a_wrong_key_is_refused_by_name(container: Container) -> None:
    with pytest.raises(StartupError, match=r"version 1 .*is not the one the data is under"):
        await (await vault_with(container, {1: b"x" * KEY_BYTES})).prove_keys(TESTER)


async def test_retired_version_need_not_be_held(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    await (await vault_of_both(container)).activate(TESTER, 2)
    await owner.execute("UPDATE encryption_keys SET state = 'retired' WHERE version = 1")

    await (await vault_with(container, {2: SECOND_ROOT})).prove_keys(TESTER)


async def test_container_is_built_without_asking_for_keys(container: Container) -> None:
    built = Container(container.resources.settings)

    assert list(built.keys.vault.encryption.versions) == []


async def test_two_versions_are_usable_after_activating_the_second(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    ada, bob = await journey.sign_up("ada@example.com"), await journey.sign_up("bob@example.com")
    key = await journey.service_key()
    await journey.connect(ada)
    both = await vault_of_both(container)

    await both.activate(TESTER, 2)
    with holding(container, both):
        await journey.connect(bob)
        answers = [await journey.get_token(key, person.id) for person in (ada, bob)]

    assert [answer.status_code for answer in answers] == [200, 200]
    versions = await owner.fetch("SELECT key_version, count(*) FROM encrypted_tokens GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in versions] == [(1, 2), (2, 2)]
    audited = await owner.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'encryption_key.activated'")
    assert audited == 1


async def test_activating_a_version_that_is_not_held_is_refused(container: Container) -> None:
    with pytest.raises(KeyUnavailableError):
        await container.keys.vault.activate(TESTER, 9)


async def test_activating_the_active_version_changes_nothing(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await container.keys.vault.activate(TESTER, 1)

    assert await owner.fetchval("SELECT count(*) FROM audit_logs") == 0


async def test_activating_a_retired_version_is_refused(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    both = await vault_of_both(container)
    await both.activate(TESTER, 2)
    await owner.execute("UPDATE encryption_keys SET state = 'retired' WHERE version = 1")

    with pytest.raises(ConflictError, match="retired"):
        await both.activate(TESTER, 1)

    assert await owner.fetchval("SELECT version FROM encryption_keys WHERE state = 'active'") == 2


async def test_version_that_is_retired_while_it_is_activated_stays_retired(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    both = await vault_of_both(container)
    await both.activate(TESTER, 2)

    async def somebody_waits() -> bool:
        return bool(await owner.fetchval(WAITED_FOR))

    async with owner.transaction():
        await owner.execute("UPDATE encryption_keys SET state = 'retired', retired_at = now() WHERE version = 1")
        activating = asyncio.create_task(both.activate(TESTER, 1))
        await until(somebody_waits, seconds=4)
    with pytest.raises(ConflictError, match="activating or retiring"):
        await activating

    states = await owner.fetch("SELECT version, state FROM encryption_keys ORDER BY version")
    assert [tuple(row) for row in states] == [(1, "retired"), (2, "active")]


async def test_activation_that_fails_for_another_reason_is_no_conflict(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    both = await vault_of_both(container)
    await owner.execute("ALTER TABLE encryption_keys ADD CONSTRAINT fails CHECK (version < 2) NOT VALID")
    try:
        with pytest.raises(IntegrityError, match="fails"):
            await both.activate(TESTER, 2)
    finally:
        await owner.execute("ALTER TABLE encryption_keys DROP CONSTRAINT fails")


async def test_two_processes_that_register_the_first_key_agree(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await owner.execute("DELETE FROM encryption_keys")
    vaults = [await vault_of_both(container) for _ in range(4)]

    refused = await asyncio.gather(*(vault.activate(TESTER, 1) for vault in vaults), return_exceptions=True)

    assert {type(one) for one in refused} <= {type(None), ConflictError}
    assert await owner.fetchval("SELECT count(*) FROM encryption_keys WHERE state = 'active'") == 1


async def test_activation_is_dated_by_the_clock_of_the_database(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    slow = VaultService(
        load_keys=lambda: TokenEncryption({1: first_root(container), 2: SECOND_ROOT}),
        unit_of_work=unit_of_work_factory(OffsetClock(container.resources.clock, -3600)),
        clock=OffsetClock(container.resources.clock, -3600),
    )
    await slow.load()
    rotation = rotation_with(container, slow)

    await slow.activate(TESTER, 2)
    with pytest.raises(ConflictError, match="may still be storing"):
        await rotation.retire(TESTER, 1)
    await owner.execute("UPDATE encryption_keys SET activated_at = activated_at - interval '5 minutes'")
    await slow.activate(TESTER, 1)
    with pytest.raises(ConflictError, match="may still be storing"):
        await rotation.retire(TESTER, 2)


async def test_activating_a_number_that_stands_for_another_secret_is_refused(container: Container) -> None:
    await (await vault_of_both(container)).activate(TESTER, 2)
    await container.keys.vault.activate(TESTER, 1)
    other = await vault_with(container, {1: first_root(container), 2: b"another-secret".ljust(KEY_BYTES)})

    with pytest.raises(ConflictError, match="another secret"):
        await other.activate(TESTER, 2)

    assert await container.keys.vault.active_version() == 1


async def test_half_of_the_fleet_with_the_new_key_reads_what_the_other_half_writes(
    connected: Connected, container: Container
) -> None:
    other = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    both = await vault_of_both(container)

    with holding(container, both):
        answers = [await connected.get(), await other.get()]

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_process_that_lacks_the_newly_active_version_answers_503_and_keeps_the_rows(
    connected: Connected, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await connected.journey.age_tokens()
    await (await vault_of_both(container)).activate(TESTER, 2)

    answer = await connected.get()

    assert_problem(answer, 503, "key_unavailable")
    row = await connected.row()
    assert (row["status"], row["refresh_lease_until"], row["token_version"]) == ("active", None, 1)
    assert connected.calls() == 0


async def test_process_with_another_secret_under_a_new_number_marks_nobody(
    connected: Connected, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    both = await vault_of_both(container)
    await both.activate(TESTER, 2)
    with holding(container, both):
        await connected.journey.connect(connected.person)
    before = await owner.fetch(TOKENS)
    wrong = await vault_with(container, {1: first_root(container), 2: b"another-secret".ljust(KEY_BYTES)})

    with holding(container, wrong):
        answers = [await connected.get() for _ in range(3)]
        await connected.journey.age_tokens()
        answers.append(await connected.get())

    for answer in answers:
        assert_problem(answer, 503, "key_unavailable")
    assert (await connected.row())["status"] == "active"
    assert await owner.fetch(TOKENS) == before
    assert connected.calls() == 0
