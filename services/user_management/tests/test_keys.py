"""Key versions: proof at boot, activation, a fleet in which not everybody holds every version."""

import asyncpg
import pytest

from services.user_management.container import Container
from services.user_management.exceptions import KeyUnavailableError, StartupError
from services.user_management.security.encryption import KEY_BYTES, TokenEncryption
from services.user_management.services.vault_service import VaultService
from services.user_management.tests.journey import Journey

Owner = asyncpg.Connection
pytestmark = pytest.mark.usefixtures("clean_database")


@pytest.fixture(scope="session")
def first_root(container: Container) -> bytes:
    """The root key of version 1, as the session's container derived it."""
    return container.vault._encryption._roots[1]


def vault_with(container: Container, roots: dict[int, bytes]) -> VaultService:
    """Another process's vault over the same database."""
    return VaultService(
        encryption=TokenEncryption(roots),
        database=container.database,
        unit_of_work=container.unit_of_work,
        clock=container.clock,
    )


async def test_process_that_holds_every_version_in_use_may_start(container: Container, first_root: bytes) -> None:
    await vault_with(container, {1: first_root, 2: b"2" * KEY_BYTES}).prove_keys()


async def test_process_without_a_version_in_use_is_refused_by_name(container: Container) -> None:
    with pytest.raises(StartupError, match="version 1 is in use and not given"):
        await vault_with(container, {2: b"2" * KEY_BYTES}).prove_keys()


async def test_process_with_a_wrong_key_is_refused_by_name(container: Container) -> None:
    with pytest.raises(StartupError, match=r"version 1 .*is not the one the data is under"):
        await vault_with(container, {1: b"x" * KEY_BYTES}).prove_keys()


async def test_two_versions_are_usable_after_activating_the_second(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]", first_root: bytes
) -> None:
    ada, bob = await journey.sign_up("ada@example.com"), await journey.sign_up("bob@example.com")
    key = await journey.service_key()
    await journey.connect(ada)
    held_by_all = vault_with(container, {1: first_root, 2: b"2" * KEY_BYTES})
    before, journey.container.vault._encryption = container.vault._encryption, held_by_all._encryption

    await held_by_all.activate(2)
    await journey.connect(bob)
    answers = [await journey.get_token(key, person.id) for person in (ada, bob)]
    usage = {row.version: (row.state, row.tokens) for row in await held_by_all.status()}
    await owner.execute("DELETE FROM integrations")
    journey.container.vault._encryption = before

    assert [answer.status_code for answer in answers] == [200, 200]
    assert usage == {1: ("decrypt_only", 2), 2: ("active", 2)}
    audited = await owner.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'encryption_key.activated'")
    assert audited == 1


async def test_activating_a_version_that_is_not_held_is_refused(container: Container) -> None:
    with pytest.raises(KeyUnavailableError):
        await container.vault.activate(9)


async def test_activating_the_active_version_changes_nothing(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await container.vault.activate(1)

    assert await owner.fetchval("SELECT count(*) FROM audit_logs") == 0


async def test_process_that_lacks_the_newly_active_version_answers_503_and_keeps_the_rows(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]", first_root: bytes
) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    key = await journey.service_key()
    await journey.age_tokens()
    await vault_with(container, {1: first_root, 2: b"2" * KEY_BYTES}).activate(2)

    answer = await journey.get_token(key, ada.id)

    assert answer.status_code == 503
    assert answer.json()["type"] == "key_unavailable"
    assert int(answer.headers["Retry-After"]) >= 1
    row = await owner.fetchrow("SELECT status, refresh_lease_until, token_version FROM integrations")
    assert row is not None
    assert tuple(row) == ("active", None, 1)
    assert journey.sandbox.ledger.count(operation="token.refresh") == 0
