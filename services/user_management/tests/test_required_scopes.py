"""Tests of changes of the required scopes: integrations that lack one are set to needs_reauth, those that no longer
lack one recover, and no status goes back and forth while old and new processes run side by side."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.conftest import Servers
from services.user_management.services.integration_health_service import scope_enforcement
from services.user_management.services.slice_time import SliceTime
from services.user_management.tests.actors import TESTER
from services.user_management.tests.diagnosis_scenes import configure
from services.user_management.tests.health_scenes import STATIC, crowd, health_of, run_check
from services.user_management.tests.journey import Journey
from services.user_management.tests.races.conftest import until
from services.user_management.tests.scenes import Connected, audit_actions

pytestmark = pytest.mark.slow

BEFORE = ("openid", "email", "offline_access")
WIDER = (*BEFORE, "mail.read")
WAITED_FOR = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"


@pytest.fixture
async def disconnecting(servers: Servers, database_name: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a database connection, like another process's, with which a test locks rows of integrations."""
    connection = await asyncpg.connect(servers.owner_url(database_name))
    yield connection
    await connection.close()


async def _an_hour_goes_by(journey: Journey) -> None:
    await journey.owner.execute(
        "UPDATE provider_health SET scopes_required_at = (SELECT jsonb_object_agg(scope, at::timestamptz - interval"
        " '1 hour') FROM jsonb_each_text(scopes_required_at) AS required (scope, at))"
    )


async def _check_requiring(journey: Journey, required: Sequence[str]) -> None:
    """Run the check of integrations as in a process in which STATIC requires the scopes `required`."""
    with pytest.MonkeyPatch.context() as patch:
        configure(journey, patch, STATIC, required_scopes=tuple(required))
        await run_check(journey)


async def _enforced(journey: Journey) -> Any:
    return json.loads((await health_of(journey) or {})["enforced_scopes"])


async def test_raised_requirement_asks_those_who_lack_it(connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = connected.journey
    bob = await journey.sign_up("bob@example.com")
    await journey.connect(bob, STATIC, scopes=("mail.read",))
    await run_check(journey)
    configure(journey, monkeypatch, STATIC, required_scopes=WIDER)

    await run_check(journey)

    rows = await journey.owner.fetch("SELECT user_id, status, status_reason FROM integrations")
    assert {row["user_id"]: (row["status"], row["status_reason"]) for row in rows} == {
        connected.user_id: ("needs_reauth", "scope_upgrade"),
        bob.id: ("active", None),
    }
    assert (await audit_actions(journey))[-1] == "integration.needs_reauth"
    events = await journey.owner.fetch("SELECT event_type, subject FROM outbox_events ORDER BY seq DESC LIMIT 1")
    assert [tuple(event) for event in events] == [("integration.needs_reauth", connected.user_id)]
    assert await _enforced(journey) == sorted(WIDER)


async def test_withdrawn_requirement_brings_them_back_after_an_hour(connected: Connected) -> None:
    journey = connected.journey
    await _check_requiring(journey, WIDER)
    marked = (await connected.row())["status"]
    await run_check(journey)
    within_the_hour = (await connected.row())["status"]
    await _an_hour_goes_by(journey)

    await run_check(journey)

    row = await connected.row()
    assert (marked, within_the_hour) == ("needs_reauth", "needs_reauth")
    assert (row["status"], row["status_reason"]) == ("active", None)
    assert await _enforced(journey) == sorted(BEFORE)
    assert (await audit_actions(journey))[-1] == "integration.recovered"
    assert (await connected.get()).status_code == 200


async def test_withdrawn_requirement_brings_back_who_never_granted_it(connected: Connected) -> None:
    journey = connected.journey
    await run_check(journey)
    await connected.set("status", "needs_reauth")
    await connected.set("status_reason", "scope_missing")
    await _check_requiring(journey, WIDER)
    asked_for = (await connected.row())["status_reason"]
    await _an_hour_goes_by(journey)

    await run_check(journey)

    row = await connected.row()
    assert asked_for == "scope_missing"
    assert (row["status"], row["status_reason"]) == ("active", None)


async def test_withdrawn_requirement_leaves_who_has_no_refresh_token_degraded(connected: Connected) -> None:
    journey = connected.journey
    await journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await connected.set("status", "degraded")
    await connected.set("status_reason", "no_refresh_token")
    await _check_requiring(journey, WIDER)
    await _an_hour_goes_by(journey)

    await run_check(journey)

    row = await connected.row()
    assert (row["status"], row["status_reason"]) == ("degraded", "no_refresh_token")
    assert (await audit_actions(journey))[-2:] == ["integration.recovered", "integration.degraded"]


async def test_withdrawn_requirement_brings_back_a_token_that_never_ends_as_active(connected: Connected) -> None:
    journey = connected.journey
    await journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")
    await _check_requiring(journey, WIDER)
    await _an_hour_goes_by(journey)

    await run_check(journey)

    assert (await connected.row())["status"] == "active"


@pytest.mark.parametrize(
    ("new", "in_force"),
    [
        (WIDER, WIDER),
        (("openid", "mail.read"), WIDER),
    ],
)
async def test_old_and_new_processes_side_by_side_flip_nobody(
    connected: Connected, new: tuple[str, ...], in_force: tuple[str, ...]
) -> None:
    journey = connected.journey

    for required in (BEFORE, new, BEFORE, new, BEFORE):
        await _check_requiring(journey, required)

    assert (await connected.row())["status"] == "needs_reauth"
    assert await _enforced(journey) == sorted(in_force)
    actions = await audit_actions(journey)
    assert (actions.count("integration.needs_reauth"), actions.count("integration.recovered")) == (1, 0)


async def test_enforcement_locks_the_connections_of_a_user_in_the_order_of_their_ids(
    connected: Connected, disconnecting: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    journey = connected.journey
    other = await Connected.at(journey, email="bob@example.com", key=connected.key)
    first, second = sorted([connected, other], key=lambda scene: UUID(scene.integration_id))
    await first.set("provider_account_id", "2")
    await second.set("provider_account_id", "1")
    await run_check(journey)
    lock = "SELECT id FROM integrations WHERE id = $1 FOR UPDATE NOWAIT"

    async def somebody_waits() -> bool:
        return bool(await disconnecting.fetchval(WAITED_FOR))

    async with disconnecting.transaction():
        await disconnecting.execute(lock, first.integration_id)
        enforcing = asyncio.create_task(_check_requiring(journey, WIDER))
        await until(somebody_waits, seconds=4)
        locked = await disconnecting.fetchval(lock, second.integration_id)
    await enforcing

    assert str(locked) == second.integration_id
    assert {(await scene.row())["status"] for scene in (first, second)} == {"needs_reauth"}


async def test_requirement_that_has_not_changed_looks_at_nobody(connected: Connected) -> None:
    await run_check(connected.journey)
    await connected.journey.owner.execute("UPDATE integrations SET granted_scopes = '[]'")

    await run_check(connected.journey)

    assert (await connected.row())["status"] == "active"


async def test_enforcement_that_is_cut_off_is_taken_up_again(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = await crowd(journey, 4)
    service = journey.container.integrations.health
    await run_check(journey)
    configure(journey, monkeypatch, STATIC, required_scopes=("openid", "mail.read"))
    monkeypatch.setattr(scope_enforcement, "BATCH", 1)
    stopping = partial(SliceTime, journey.container.resources.clock, lambda: True)
    marked = []
    cursor: Any = None

    for _ in range(3):
        position = await service.scopes.enforce(TESTER, cursor, stopping())
        cursor = json.loads(json.dumps(position))
        marked.append(sum([(await scene.row())["status"] == "needs_reauth" for scene in scenes]))
    await service.scopes.enforce(TESTER, cursor, journey.container.resources.start_slice())

    assert marked == [1, 2, 3]
    assert {(await scene.row())["status_reason"] for scene in scenes} == {"scope_upgrade"}
    assert (await audit_actions(journey)).count("integration.needs_reauth") == 4
