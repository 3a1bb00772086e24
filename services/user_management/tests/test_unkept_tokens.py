"""Tests of tokens that no integration will hold after the code was exchanged: they are revoked, unless that would end
another consent."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.sandbox.faults import Fault, FaultAction
from services.user_management.container import Container
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    PROVIDER,
    returned_flow,
    revocation_of,
    revocation_states,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.provider_copies import imitated, living_tokens
from services.user_management.tests.scenes import Headers, assert_problem, provider_party

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def built_in_providers(container: Container, journey: Journey, tmp_path: Path) -> Iterator[None]:
    for provider in journey.sandbox.providers.values():
        provider.forget()
    with imitated(container, journey.sandbox, tmp_path):
        yield


def _fail(journey: Journey, provider: str, operation: str, action: FaultAction, **fields: Any) -> None:
    journey.sandbox.faults.add(Fault(party=provider_party(provider), operation=operation, action=action, **fields))


def _alive(journey: Journey, provider: str) -> int:
    found = journey.sandbox.provider(provider.removeprefix("sandbox-"))
    assert found is not None
    return living_tokens(found)


@pytest.mark.parametrize("provider", [PROVIDER, "slack"])
async def test_grant_whose_account_cannot_be_told_is_given_back(journey: Journey, provider: str) -> None:
    ada = await journey.sign_up()
    ticket = await returned_flow(journey, ada, provider=provider)
    _fail(journey, provider, "userinfo", "status", times=9)

    response = await journey.confirm(ada, provider, flow=ticket)
    issued = _alive(journey, provider)
    pending = await revocation_of(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert_problem(response, 503, "provider_unavailable")
    assert issued == 2
    assert (pending["state"], pending["provider_account_id"]) == ("pending", "")
    assert await revocation_states(journey) == ["done"]
    assert _alive(journey, provider) == 0
    assert await journey.owner.fetchval("SELECT count(*) FROM integrations") == 0


@pytest.mark.parametrize(
    ("provider", "operation", "action", "problem"),
    [
        ("google", "token.exchange", "wrong_nonce", (502, "provider_answer_invalid")),
        ("github", "userinfo", "status", (503, "provider_unavailable")),
    ],
)
async def test_grant_whose_account_cannot_be_told_is_left_where_another_could_be_taken_along(
    journey: Journey, provider: str, operation: str, action: FaultAction, problem: tuple[int, str]
) -> None:
    ada = await journey.sign_up()
    ticket = await returned_flow(journey, ada, provider=provider)
    _fail(journey, provider, operation, action, times=9)

    response = await journey.confirm(ada, provider, flow=ticket)

    assert_problem(response, *problem)
    assert await revocation_states(journey) == []
    assert _alive(journey, provider) == 2


@pytest.mark.parametrize("provider", [PROVIDER, "github", "slack"])
async def test_grant_of_a_user_who_was_deleted_meanwhile_is_given_back(
    journey: Journey, admin: Headers, provider: str
) -> None:
    ada = await journey.sign_up()
    ticket = await returned_flow(journey, ada, provider=provider)
    _fail(journey, provider, "userinfo", "delay", delay_seconds=600)

    confirming = asyncio.create_task(journey.confirm(ada, provider, flow=ticket))
    await journey.sandbox.ledger.wait_for(provider_party(provider), "userinfo")
    deleted = await journey.client.delete(f"/admin/users/{ada.id}", headers=admin)
    journey.sandbox.faults.clear()
    response = await confirming
    issued = _alive(journey, provider)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert deleted.is_success, deleted.text
    assert_problem(response, 404, "user_not_found")
    assert issued == 2
    assert await revocation_states(journey) == ["done"]
    assert _alive(journey, provider) == 0
    assert await journey.owner.fetchval("SELECT count(*) FROM integrations") == 0


async def test_grant_of_a_deleted_user_is_left_where_somebody_else_uses_the_account(
    journey: Journey, admin: Headers
) -> None:
    ada, bob = await journey.sign_up(), await journey.sign_up("bob@example.com")
    shared = await returned_flow(journey, bob, ada.email, "github")
    await journey.confirm(bob, "github", flow=shared)
    ticket = await returned_flow(journey, ada, provider="github")
    _fail(journey, "github", "userinfo", "delay", delay_seconds=600)

    confirming = asyncio.create_task(journey.confirm(ada, "github", flow=ticket))
    await journey.sandbox.ledger.wait_for("github", "userinfo", state="started")
    await journey.client.delete(f"/admin/users/{ada.id}", headers=admin)
    journey.sandbox.faults.clear()
    response = await confirming
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert_problem(response, 404, "user_not_found")
    assert await revocation_states(journey) == ["superseded"]
    assert journey.sandbox.ledger.count("github", "revoke") == 0
