"""Tests of disconnects and reconnects during a call to the provider: no token stays valid there, and no new consent is
ended."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.user_management.container import Container
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    PROVIDER,
    connect_account,
    connected_to,
    returned_flow,
    revocation_of,
    revocation_states,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.provider_copies import imitated, living_tokens
from services.user_management.tests.scenes import Connected, Headers, assert_problem

pytestmark = pytest.mark.slow

ROTATING = ["github", "slack"]


@pytest.fixture(autouse=True)
def built_in_providers(container: Container, journey: Journey, tmp_path: Path) -> Iterator[None]:
    with imitated(container, journey.sandbox, tmp_path):
        yield


async def _disconnect(scene: Connected) -> httpx.Response:
    return await scene.journey.client.delete(f"/users/me/integrations/{scene.provider}", headers=scene.headers)


def _alive(scene: Connected) -> int:
    provider = scene.journey.sandbox.provider(scene.provider)
    assert provider is not None
    return living_tokens(provider, scene.person.email)


async def _refresh_out(scene: Connected) -> "asyncio.Task[httpx.Response]":
    """Start a read whose refresh the provider has carried out but not answered yet; the former access token still
    works."""
    await scene.journey.age_tokens(seconds_left=200)
    scene.fail("delay", delay_seconds=600, when="after")
    reader = asyncio.create_task(scene.get())
    await scene.journey.sandbox.ledger.wait_for(scene.party, "token.refresh", committed=True)
    return reader


@pytest.mark.parametrize("provider", ROTATING)
async def test_disconnect_while_a_refresh_is_out_leaves_nothing_alive(journey: Journey, provider: str) -> None:
    scene = await connected_to(journey, provider)
    reader = await _refresh_out(scene)

    ended = await _disconnect(scene)
    journey.sandbox.faults.clear()
    answer = await reader
    pending = await revocation_states(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert ended.json()["revocation"] == "pending"
    assert_problem(answer, 404, "not_connected")
    assert pending == ["pending", "pending"]
    assert await revocation_states(journey) == ["done", "done"]
    assert _alive(scene) == 0


@pytest.mark.parametrize("provider", ROTATING)
async def test_answer_that_comes_after_the_revocation_is_revoked_too(journey: Journey, provider: str) -> None:
    scene = await connected_to(journey, provider)
    reader = await _refresh_out(scene)

    await _disconnect(scene)
    await journey.container.integrations.revocations.revoke_due(TESTER)
    before = await revocation_states(journey)
    journey.sandbox.faults.clear()
    await reader
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert before == ["done"]
    assert await revocation_states(journey) == ["done", "done"]
    assert _alive(scene) == 0


@pytest.mark.parametrize("provider", ROTATING)
async def test_own_account_that_is_deleted_while_a_refresh_is_out_leaves_nothing_alive(
    journey: Journey, provider: str
) -> None:
    scene = await connected_to(journey, provider)
    reader = await _refresh_out(scene)

    deleted = await journey.client.delete("/users/me", headers=scene.headers)
    journey.sandbox.faults.clear()
    await reader
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert deleted.is_success, deleted.text
    assert await revocation_states(journey) == ["done", "done"]
    assert _alive(scene) == 0


@pytest.mark.parametrize("provider", ROTATING)
async def test_erasure_while_a_refresh_is_out_leaves_nothing_alive(
    journey: Journey, admin: Headers, provider: str
) -> None:
    scene = await connected_to(journey, provider)
    reader = await _refresh_out(scene)
    await journey.client.delete(f"/admin/users/{scene.user_id}", headers=admin)
    await journey.owner.execute("UPDATE users SET deleted_at = deleted_at - interval '31 days'")

    await journey.container.users.erasure.erase_due(TESTER)
    journey.sandbox.faults.clear()
    await reader
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert await journey.owner.fetchval("SELECT count(*) FROM integrations") == 0
    assert await revocation_states(journey) == ["done", "done"]
    assert _alive(scene) == 0


async def test_late_answer_is_not_revoked_where_that_would_end_somebody_elses_connection(journey: Journey) -> None:
    ada = await connected_to(journey, "github")
    reader = await _refresh_out(ada)
    bob = await journey.sign_up("bob@example.com")
    await connect_account(journey, bob, ada.person.email, "github")

    await _disconnect(ada)
    journey.sandbox.faults.clear()
    await reader
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert await revocation_states(journey) == ["superseded", "superseded"]
    await journey.age_tokens()
    assert (await journey.get_token(ada.key, bob.id, "github")).status_code == 200


async def test_late_answer_after_a_reconnect_leaves_the_new_connection_alone(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    reader = await _refresh_out(scene)
    await _disconnect(scene)
    await connect_account(journey, scene.person, scene.person.email, "github")

    journey.sandbox.faults.clear()
    await reader
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert await revocation_states(journey) == ["superseded"]
    await journey.age_tokens()
    assert (await scene.get()).status_code == 200


async def test_confirm_while_the_grant_is_being_revoked_comes_again_with_the_same_flow(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    await _disconnect(scene)
    scene.fail("delay", "revoke", delay_seconds=600)
    job = asyncio.create_task(journey.container.integrations.revocations.revoke_due(TESTER))
    await journey.sandbox.ledger.wait_for("github", "revoke")
    ticket = await returned_flow(journey, scene.person, provider="github")

    refused = await journey.confirm(scene.person, "github", flow=ticket)
    journey.sandbox.faults.clear()
    await job
    confirmed = await journey.confirm(scene.person, "github", flow=ticket)

    assert_problem(refused, 503, "provider_unavailable")
    assert (confirmed.status_code, confirmed.json()["status"]) == (201, "active")
    assert await revocation_states(journey) == ["done"]
    assert _alive(scene) == 2
    await journey.age_tokens()
    assert (await scene.get()).status_code == 200


async def test_confirm_after_the_lease_of_a_worker_that_died_supersedes_its_revocation(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    await _disconnect(scene)
    scene.fail("delay", "revoke", delay_seconds=600)
    job = asyncio.create_task(journey.container.integrations.revocations.revoke_due(TESTER))
    await journey.sandbox.ledger.wait_for("github", "revoke")
    job.cancel()
    await asyncio.wait([job])
    journey.sandbox.faults.clear()
    ticket = await returned_flow(journey, scene.person, provider="github")

    refused = await journey.confirm(scene.person, "github", flow=ticket)
    await journey.owner.execute("UPDATE token_revocations SET lease_until = now(), next_attempt_at = now()")
    confirmed = await journey.confirm(scene.person, "github", flow=ticket)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert_problem(refused, 503, "provider_unavailable")
    assert confirmed.status_code == 201, confirmed.text
    assert await revocation_states(journey) == ["superseded"]
    assert journey.sandbox.ledger.count("github", "revoke") == 1


async def test_revocation_that_nobody_has_begun_waits_for_the_confirm_and_is_superseded(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    await _disconnect(scene)
    ticket = await returned_flow(journey, scene.person, provider="github")
    scene.fail("delay", "token.exchange", delay_seconds=600, when="after")

    confirming = asyncio.create_task(journey.confirm(scene.person, "github", flow=ticket))
    await journey.sandbox.ledger.wait_for("github", "token.exchange", at_least=2, committed=True)
    await journey.container.integrations.revocations.revoke_due(TESTER)
    while_out = await revocation_of(journey)
    journey.sandbox.faults.clear()
    confirmed = await confirming
    await journey.owner.execute("UPDATE token_revocations SET next_attempt_at = now() WHERE state = 'pending'")
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (while_out["state"], while_out["attempts"]) == ("pending", 0)
    assert confirmed.status_code == 201, confirmed.text
    assert await revocation_states(journey) == ["superseded"]
    assert journey.sandbox.ledger.count("github", "revoke") == 0


async def test_confirm_does_not_wait_for_a_revocation_that_ends_one_grant_alone(journey: Journey) -> None:
    scene = await Connected.at(journey)
    await _disconnect(scene)
    scene.fail("delay", "revoke", delay_seconds=600)
    job = asyncio.create_task(journey.container.integrations.revocations.revoke_due(TESTER))
    await journey.sandbox.ledger.wait_for(scene.party, "revoke")
    ticket = await returned_flow(journey, scene.person)

    confirmed = await journey.confirm(scene.person, PROVIDER, flow=ticket)
    journey.sandbox.faults.clear()
    await job

    assert confirmed.status_code == 201, confirmed.text
    assert await revocation_states(journey) == ["done"]
    await journey.age_tokens()
    assert (await scene.get()).status_code == 200
