"""Tests of the container: which of its groups are built at the start and at the end of a process, and the phase it is
in."""

import math
from collections.abc import AsyncIterator

import pytest

from services.user_management.container import Container
from services.user_management.exceptions import StartupError
from services.user_management.services.token_service import TokenRefresher
from services.user_management.settings import Settings


@pytest.fixture(autouse=True)
async def connections_for_this_test_alone(container: Container) -> AsyncIterator[None]:
    """Disconnect the database of the session's container for the test: a process has one set of database connections,
    and the containers of these tests close it."""
    await container.resources.database.disconnect()
    yield
    await container.resources.database.connect()


def groups(container: Container) -> set[str]:
    """Return the names of the container's groups that are built, other than `resources`, which always is."""
    return {name for name in vars(container) if not name.startswith("_")} - {"resources"}


async def test_end_of_a_process_builds_no_group(settings: Settings) -> None:
    container = Container(settings)

    await container.settle(0)
    await container.stop()

    assert groups(container) == set()


@pytest.mark.usefixtures("clean_database")
async def test_proof_of_the_keys_builds_only_the_keys(settings: Settings) -> None:
    container = Container(settings)

    await container.prove_keys()
    await container.stop()

    assert groups(container) == {"keys"}


async def test_process_whose_start_was_refused_can_be_stopped(settings: Settings) -> None:
    clerk = settings.clerk.model_copy(update={"jwt_key": "nonsense"})
    container = Container(settings.model_copy(update={"clerk": clerk}))
    with pytest.raises(StartupError):
        await container.start()

    await container.stop()

    assert container.is_draining


async def test_phase_follows_the_process(settings: Settings) -> None:
    container = Container(settings)
    phases = [(await container.operations.health.ready()).status]
    await container.start()
    phases.append((await container.operations.health.ready()).status)
    container.drain()
    phases.append((await container.operations.health.ready()).status)
    await container.stop()

    assert phases == ["starting", "ready", "draining"]


async def test_refresher_that_is_built_while_the_process_ends_knows_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []
    monkeypatch.setattr(TokenRefresher, "stop_by", lambda _refresher, stops_at: ends.append(stops_at))
    container = Container(settings)

    container.drain()
    _ = container.tokens

    await container.stop()
    assert len(ends) == 1
    assert ends[0] < math.inf
