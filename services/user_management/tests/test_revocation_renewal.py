"""Tests of revocation at providers that take only an access token for it: one that has run out is renewed before it is
revoked."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.sandbox.oidc.provider import Provider
from services.user_management.container import Container
from services.user_management.enums import TokenKind
from services.user_management.services.vault_service import token_binding
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    connected_to,
    make_revocations_due,
    no_longer_offering,
    revocation_of,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.provider_copies import imitated, living_tokens
from services.user_management.tests.scenes import Connected, Headers

EXPIRES_IN = "SELECT extract(epoch FROM expires_at - now())::float8 FROM token_revocations"


@pytest.fixture(autouse=True)
def built_in_providers(container: Container, journey: Journey, tmp_path: Path) -> Iterator[None]:
    with imitated(container, journey.sandbox, tmp_path):
        yield


@pytest.fixture(params=["github", "slack"])
async def run_out(request: pytest.FixtureRequest, journey: Journey) -> Connected:
    """An integration whose access token has run out, here and at the provider; nobody has refreshed it."""
    scene = await connected_to(journey, request.param)
    await _run_out(scene)
    return scene


def _provider(scene: Connected) -> Provider:
    return scene.journey.sandbox.imitations[scene.provider]


async def _run_out(scene: Connected) -> None:
    _provider(scene).expire_access_tokens()
    await scene.journey.age_tokens()
    await scene.journey.owner.execute("UPDATE token_revocations SET expires_at = now() WHERE expires_at IS NOT NULL")


async def _disconnect(scene: Connected) -> None:
    response = await scene.journey.client.delete(f"/users/me/integrations/{scene.provider}", headers=scene.headers)
    assert response.json()["revocation"] == "pending"


def _opened(journey: Journey, row: dict[str, Any], kind: TokenKind) -> str:
    column = {TokenKind.ACCESS: "", TokenKind.REFRESH: "refresh_"}[kind]
    binding = token_binding(row["user_id"], row["integration_id"], kind)
    return journey.container.keys.vault.open(row[f"{column}ciphertext"], binding, row[f"{column}key_version"])


async def test_access_token_that_has_run_out_is_renewed_and_the_grant_ended(run_out: Connected) -> None:
    await _disconnect(run_out)

    await run_out.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(run_out.journey)
    assert (row["state"], row["ciphertext"], row["refresh_ciphertext"]) == ("done", None, None)
    assert (run_out.calls(), run_out.calls("revoke")) == (1, 1)
    assert living_tokens(_provider(run_out)) == 0


async def test_access_token_that_works_is_revoked_without_a_refresh(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    await _disconnect(scene)

    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (await revocation_of(journey))["state"] == "done"
    assert (scene.calls(), scene.calls("revoke")) == (0, 1)
    assert living_tokens(_provider(scene)) == 0


@pytest.mark.parametrize("code", ["invalid_auth", "token_expired"])
async def test_refusal_that_leaves_the_grant_alive_is_not_taken_for_its_end(journey: Journey, code: str) -> None:
    scene = await connected_to(journey, "slack")
    await _disconnect(scene)
    scene.fail("error", "revoke", error=code)

    await journey.container.integrations.revocations.revoke_due(TESTER)
    refused = await revocation_of(journey)
    await make_revocations_due(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (refused["state"], refused["last_failure"]) == ("pending", code)
    assert (await revocation_of(journey))["state"] == "done"
    assert living_tokens(_provider(scene)) == 0


async def test_renewed_tokens_are_kept_before_one_of_them_is_revoked(run_out: Connected) -> None:
    journey = run_out.journey
    await _disconnect(run_out)
    run_out.fail("delay", "revoke", delay_seconds=600)

    job = asyncio.create_task(journey.container.integrations.revocations.revoke_due(TESTER))
    await journey.sandbox.ledger.wait_for(run_out.party, "revoke")
    job.cancel()
    await asyncio.wait([job])
    kept = await revocation_of(journey)
    (grant,) = _provider(run_out).grants(run_out.person.email)
    tokens = (grant.access_tokens[-1].value, grant.refresh_tokens[-1].value)
    journey.sandbox.faults.clear()
    await make_revocations_due(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (_opened(journey, kept, TokenKind.ACCESS), _opened(journey, kept, TokenKind.REFRESH)) == tokens
    assert (await revocation_of(journey))["state"] == "done"
    assert run_out.calls() == 1
    assert living_tokens(_provider(run_out)) == 0


async def test_renewed_token_that_runs_out_before_it_could_be_revoked_is_renewed_again(run_out: Connected) -> None:
    journey = run_out.journey
    await _disconnect(run_out)
    run_out.fail("status", "revoke", status=500)

    await journey.container.integrations.revocations.revoke_due(TESTER)
    life = await journey.owner.fetchval(EXPIRES_IN)
    await _run_out(run_out)
    await make_revocations_due(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert life > 3600
    assert (await revocation_of(journey))["state"] == "done"
    assert run_out.calls() == 2
    assert living_tokens(_provider(run_out)) == 0


async def test_tokens_of_a_late_answer_that_run_out_are_renewed_too(journey: Journey) -> None:
    scene = await connected_to(journey, "github")
    await journey.age_tokens()
    scene.fail("delay", delay_seconds=600, when="after")
    reader = asyncio.create_task(scene.get())
    await journey.sandbox.ledger.wait_for("github", "token.refresh", committed=True)
    await _disconnect(scene)
    journey.sandbox.faults.clear()
    await reader

    await _run_out(scene)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    rows = await journey.owner.fetch("SELECT state FROM token_revocations")
    assert [row["state"] for row in rows] == ["done", "done"]
    assert living_tokens(_provider(scene)) == 0


async def test_access_token_that_has_run_out_alone_makes_the_revocation_impossible(run_out: Connected) -> None:
    await run_out.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await _disconnect(run_out)

    await run_out.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(run_out.journey)
    assert (row["state"], row["last_failure"], row["ciphertext"]) == ("impossible", "access_token_ran_out", None)
    assert (run_out.calls(), run_out.calls("revoke")) == (0, 0)


async def test_grant_whose_refresh_is_refused_counts_as_ended(run_out: Connected) -> None:
    _provider(run_out).revoke_account(run_out.person.email)
    await _disconnect(run_out)

    await run_out.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(run_out.journey)
    assert (row["state"], row["refresh_ciphertext"]) == ("done", None)
    assert row["last_failure"] in {"bad_refresh_token", "invalid_refresh_token"}
    assert (run_out.calls(), run_out.calls("revoke")) == (1, 0)


async def test_refresh_that_fails_for_now_is_tried_again_later(run_out: Connected) -> None:
    await _disconnect(run_out)
    run_out.fail("status", status=503)

    await run_out.journey.container.integrations.revocations.revoke_due(TESTER)
    after_failure = await revocation_of(run_out.journey)
    await make_revocations_due(run_out.journey)
    await run_out.journey.container.integrations.revocations.revoke_due(TESTER)

    assert (after_failure["state"], after_failure["attempts"], run_out.calls()) == ("pending", 1, 2)
    assert (await revocation_of(run_out.journey))["state"] == "done"
    assert living_tokens(_provider(run_out)) == 0


async def test_erasure_a_month_after_the_deletion_ends_the_grant(run_out: Connected, admin: Headers) -> None:
    journey = run_out.journey
    await journey.client.delete(f"/admin/users/{run_out.user_id}", headers=admin)
    await journey.owner.execute("UPDATE users SET deleted_at = deleted_at - $1::interval", timedelta(days=31))

    await journey.container.users.erasure.erase_due(TESTER)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert await journey.owner.fetchval("SELECT count(*) FROM users WHERE id = $1", run_out.user_id) == 0
    assert (await revocation_of(journey))["state"] == "done"
    assert living_tokens(_provider(run_out)) == 0


async def test_grant_given_up_while_its_provider_was_not_configured_is_ended_when_it_is_again(
    journey: Journey,
) -> None:
    scene = await connected_to(journey, "github")
    with no_longer_offering(journey.container, "github"):
        await _disconnect(scene)

    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (await revocation_of(journey))["state"] == "done"
    assert living_tokens(_provider(scene)) == 0
