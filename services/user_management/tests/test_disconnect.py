"""Tests of the end of an integration: its tokens are unreadable here at once, and their revocation at the provider is
tried until it succeeds, for at most a week."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from structlog.testing import capture_logs

from services.sandbox.faults import FaultAction
from services.user_management.container import Container
from services.user_management.enums import TokenKind
from services.user_management.queries import token_revocation as queries
from services.user_management.services.integration_service.revocations import LEASE_SECONDS
from services.user_management.services.vault_service import token_binding
from services.user_management.tests.actors import TESTER
from services.user_management.tests.fleets import SECOND_ROOT, holding, vault_with
from services.user_management.tests.integration_scenes import (
    PROVIDER,
    WORK,
    connect_account,
    make_revocations_due,
    offering,
    returned_flow,
    revocation_job,
    revocation_of,
    revocation_states,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers, assert_problem, audit_actions, only_row

pytestmark = pytest.mark.slow

PATH = f"/users/me/integrations/{PROVIDER}"
WAIT = "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM token_revocations"
WHOLE_GRANT = '[revocation]\nendpoint = "http://sandbox.test/oidc/static/revoke"\nwhole_consent = true'
NO_REVOCATION = 'revocation_note = "Remove the access at https://accounts.example.com/connections."'


@pytest.fixture
def whole_consent(container: Container, tmp_path: Path) -> Iterator[None]:
    """Make the provider one at which revoking one token ends the account's whole consent."""
    with offering(container, tmp_path, tables=WHOLE_GRANT, without=["revocation_endpoint"]):
        yield


async def _disconnect(scene: Connected, **params: str) -> httpx.Response:
    return await scene.journey.client.delete(PATH, headers=scene.headers, params=params)


def _grants_alive(journey: Journey, email: str = "ada@example.com") -> list[bool]:
    return [grant.alive for grant in journey.sandbox.providers["static"].grants(email)][-1:]


async def test_disconnect_makes_the_tokens_unreadable_at_once(connected: Connected) -> None:
    response = await _disconnect(connected)

    assert response.status_code == 200, response.text
    assert response.json() == {
        "id": connected.integration_id,
        "provider": PROVIDER,
        "provider_account_id": (await connected.row())["provider_account_id"],
        "revocation": "pending",
        "revocation_note": None,
    }
    assert_problem(await connected.get(), 404, "not_connected")
    assert await connected.journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 0
    row = await connected.row()
    assert (row["status"], row["status_reason"], row["is_primary"]) == ("disconnected", "user", False)
    assert connected.calls("revoke") == 0


async def test_disconnect_notes_the_refresh_token_under_its_binding(connected: Connected) -> None:
    stored = await connected.ciphertext("refresh")

    await _disconnect(connected)

    row = await revocation_of(connected.journey)
    assert (row["state"], row["kind"], row["attempts"], row["ciphertext"]) == ("pending", "refresh", 0, stored)
    binding = token_binding(row["user_id"], row["integration_id"], TokenKind(row["kind"]))
    opened = connected.journey.container.keys.vault.open(row["ciphertext"], binding, row["key_version"])
    assert opened.startswith("sbx-rt-")


async def test_disconnect_is_audited_and_told(connected: Connected) -> None:
    await _disconnect(connected)

    assert (await audit_actions(connected.journey, connected.user_id))[-1] == "integration.disconnected"
    event = await only_row(
        connected.journey, "SELECT payload FROM outbox_events WHERE event_type = 'integration.disconnected'"
    )
    assert connected.integration_id in event["payload"]
    assert connected.person.email not in event["payload"]


async def test_revocation_ends_the_grant_and_leaves_no_ciphertext(connected: Connected) -> None:
    await _disconnect(connected)
    before = _grants_alive(connected.journey)

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(connected.journey)
    assert (before, _grants_alive(connected.journey)) == ([True], [False])
    assert (row["state"], row["ciphertext"], row["key_version"], row["next_attempt_at"]) == ("done", None, None, None)
    assert row["finished_at"] is not None
    assert connected.calls("revoke") == 1
    assert (await audit_actions(connected.journey))[-1] == "integration.revocation_finished"


async def test_second_disconnect_is_not_found(connected: Connected) -> None:
    await _disconnect(connected)

    again = await _disconnect(connected)

    assert_problem(again, 404, "not_connected")
    assert await revocation_states(connected.journey) == ["pending"]


async def test_disconnects_at_once_end_one_connection_once(connected: Connected) -> None:
    responses = await asyncio.gather(*(_disconnect(connected) for _ in range(10)))

    assert sorted(response.status_code for response in responses) == [200] + [404] * 9
    assert await revocation_states(connected.journey) == ["pending"]


async def test_revocation_backs_off_ever_longer_while_the_provider_is_down(connected: Connected) -> None:
    journey = connected.journey
    await _disconnect(connected)
    faults: list[tuple[FaultAction, dict[str, Any]]] = [
        ("status", {"status": 500}),
        ("reset", {}),
        ("html", {"status": 502}),
    ]
    waits = []

    for action, fields in faults:
        connected.fail(action, "revoke", **fields)
        await journey.container.integrations.revocations.revoke_due(TESTER)
        waits.append(round(await journey.owner.fetchval(WAIT), -1))
        await journey.container.integrations.revocations.revoke_due(TESTER)
        await make_revocations_due(journey)
    calls_while_down = connected.calls("revoke")
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert waits == [10, 60, 300]
    assert calls_while_down == 3
    row = await revocation_of(connected.journey)
    assert (row["state"], row["attempts"], row["ciphertext"]) == ("done", 4, None)
    assert _grants_alive(journey) == [False]


async def test_revocation_waits_as_long_as_the_provider_says(connected: Connected) -> None:
    await _disconnect(connected)
    connected.fail("status", "revoke", status=429, headers={"Retry-After": "900"})

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    assert 890 < await connected.journey.owner.fetchval(WAIT) <= 900
    assert await revocation_states(connected.journey) == ["pending"]


@pytest.mark.parametrize("code", ["invalid_token", "invalid_grant"])
async def test_token_that_the_provider_no_longer_knows_counts_as_revoked(connected: Connected, code: str) -> None:
    await _disconnect(connected)
    connected.fail("error", "revoke", error=code)

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(connected.journey)
    assert (row["state"], row["last_failure"]) == ("done", "already_gone")


async def test_grant_that_the_user_ended_there_counts_as_revoked(connected: Connected) -> None:
    connected.journey.sandbox.providers["static"].revoke_account("ada@example.com")
    await _disconnect(connected)

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    assert (await revocation_of(connected.journey))["state"] == "done"


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
async def test_refusal_of_our_client_is_tried_again_and_told_to_the_operator(connected: Connected, code: str) -> None:
    await _disconnect(connected)
    connected.fail("error", "revoke", error=code)

    with capture_logs() as logs:
        await connected.journey.container.integrations.revocations.revoke_due(TESTER)
    after_refusal = await revocation_of(connected.journey)
    await make_revocations_due(connected.journey)
    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    assert (after_refusal["state"], after_refusal["last_failure"]) == ("pending", code)
    assert [entry["log_level"] for entry in logs if entry["event"] == "provider.misconfigured"] == ["error"]
    assert (await revocation_of(connected.journey))["state"] == "done"


@pytest.mark.parametrize(("age", "state"), [("6 days 23 hours", "pending"), ("7 days 1 minute", "given_up")])
async def test_revocation_is_given_up_after_a_week_and_said_so(connected: Connected, age: str, state: str) -> None:
    await _disconnect(connected)
    await connected.journey.owner.execute("UPDATE token_revocations SET requested_at = now() - $1::text::interval", age)
    connected.fail("status", "revoke", status=500)

    with capture_logs() as logs:
        await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(connected.journey)
    assert (row["state"], row["ciphertext"] is None) == (state, state == "given_up")
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert errors == (["revocation.given_up"] if state == "given_up" else [])


async def test_revocation_whose_worker_died_is_done_by_another_when_the_lease_ends(connected: Connected) -> None:
    journey = connected.journey
    await _disconnect(connected)
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        claimed = await queries.claim_due(uow.connection, limit=1, lease_seconds=LEASE_SECONDS)

    await journey.container.integrations.revocations.revoke_due(TESTER)
    calls_under_lease = connected.calls("revoke")
    await make_revocations_due(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert len(claimed) == 1
    assert (calls_under_lease, connected.calls("revoke")) == (0, 1)
    assert (await revocation_of(connected.journey))["state"] == "done"


async def test_two_workers_at_once_revoke_each_token_once(connected: Connected) -> None:
    journey = connected.journey
    await _disconnect(connected)
    for number in range(11):
        account = f"account-{number}@example.com"
        await connect_account(journey, connected.person, account, new_account=True)
        await _disconnect(connected, account=account)
    connected.fail("delay", "revoke", delay_seconds=0.05, times=12)

    await asyncio.gather(
        *(
            jobs.revoke_due(TESTER)
            for jobs in (journey.container.integrations.revocations, revocation_job(journey.container))
        )
    )

    assert await revocation_states(journey) == ["done"] * 12
    tokens = [entry.refresh_token for entry in journey.sandbox.ledger.entries("oidc:static", "revoke")]
    assert len(tokens) == len(set(tokens)) == 12


async def test_revocation_under_a_key_that_is_away_waits_until_it_is_there(connected: Connected) -> None:
    container = connected.journey.container
    await _disconnect(connected)

    with holding(container, await vault_with(container, {2: SECOND_ROOT})):
        await container.integrations.revocations.revoke_due(TESTER)
    while_away = await revocation_of(connected.journey)
    await make_revocations_due(connected.journey)
    await container.integrations.revocations.revoke_due(TESTER)

    assert (while_away["state"], while_away["last_failure"]) == ("pending", "key_unavailable")
    assert (await revocation_of(connected.journey))["state"] == "done"
    assert connected.calls("revoke") == 1


async def test_revocation_of_a_token_that_cannot_be_read_is_impossible(connected: Connected) -> None:
    await connected.store("refresh", await connected.ciphertext("access"))
    await _disconnect(connected)

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(connected.journey)
    assert (row["state"], row["last_failure"], row["ciphertext"]) == ("impossible", "token_unreadable", None)
    assert connected.calls("revoke") == 0


async def test_provider_without_revocation_is_said_so_and_not_called(connected: Connected, tmp_path: Path) -> None:
    container = connected.journey.container
    with offering(container, tmp_path, keys=NO_REVOCATION, without=["revocation_endpoint"]):
        response = await _disconnect(connected)
        await container.integrations.revocations.revoke_due(TESTER)

    assert response.json()["revocation"] == "impossible"
    assert "https://accounts.example.com/connections" in response.json()["revocation_note"]
    row = await revocation_of(connected.journey)
    assert (row["state"], row["ciphertext"], row["key_version"]) == ("impossible", None, None)
    assert connected.calls("revoke") == 0
    assert await connected.journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 0


async def test_connection_without_any_token_has_nothing_to_revoke(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens")

    response = await _disconnect(connected)

    assert response.json()["revocation"] == "none"
    assert await revocation_states(connected.journey) == []


async def test_connection_without_a_refresh_token_has_its_access_token_revoked(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await _disconnect(connected)
    kind = (await revocation_of(connected.journey))["kind"]

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    assert kind == "access"
    assert (await revocation_of(connected.journey))["state"] == "done"
    assert _grants_alive(connected.journey) == [False]


async def test_reconnect_before_the_revocation_leaves_the_old_grant_to_it(connected: Connected) -> None:
    journey = connected.journey
    await _disconnect(connected)

    again = await connect_account(journey, connected.person, connected.person.email)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    grants = journey.sandbox.providers["static"].grants("ada@example.com")
    assert (again["id"], again["status"]) == (connected.integration_id, "active")
    assert await revocation_states(journey) == ["done"]
    assert [grant.alive for grant in grants[-2:]] == [False, True]
    await journey.age_tokens()
    assert (await connected.get()).json()["refreshed"] is True


@pytest.mark.usefixtures("whole_consent")
async def test_reconnect_before_the_revocation_of_a_whole_consent_supersedes_it(connected: Connected) -> None:
    await _disconnect(connected)

    again = await connect_account(connected.journey, connected.person, connected.person.email)
    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(connected.journey)
    assert (again["id"], again["status"]) == (connected.integration_id, "active")
    assert (row["state"], row["ciphertext"]) == ("superseded", None)
    assert connected.calls("revoke") == 0
    assert (await connected.get()).status_code == 200


@pytest.mark.parametrize("state", ["done", "impossible", "given_up", "superseded", "superseded by a reconnect"])
async def test_finished_revocation_keeps_neither_account_nor_tokens(
    connected: Connected, tmp_path: Path, state: str
) -> None:
    journey = connected.journey
    keys, tables = (NO_REVOCATION, "") if state == "impossible" else ("", WHOLE_GRANT)
    with offering(journey.container, tmp_path, keys=keys, tables=tables, without=["revocation_endpoint"]):
        await _disconnect(connected)
        if state == "given_up":
            await journey.owner.execute("UPDATE token_revocations SET requested_at = now() - interval '8 days'")
            connected.fail("status", "revoke", status=500)
        elif state == "superseded":
            await connect_account(journey, await journey.sign_up("bob@example.com"), connected.person.email)
        elif state == "superseded by a reconnect":
            await connect_account(journey, connected.person, connected.person.email)
        await journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(journey)
    assert (row["state"], row["provider_account_id"]) == (state.partition(" ")[0], "")
    assert not [name for name, value in row.items() if "ciphertext" in name and value is not None]


@pytest.mark.usefixtures("whole_consent")
@pytest.mark.parametrize("reason", [None, "scope_upgrade", "scope_missing"])
async def test_grant_that_somebody_else_still_uses_is_not_ended(connected: Connected, reason: str | None) -> None:
    journey = connected.journey
    bob = await journey.sign_up("bob@example.com")
    await connect_account(journey, bob, connected.person.email)
    if reason is not None:
        await journey.owner.execute(
            "UPDATE integrations SET status = 'needs_reauth', status_reason = $2 WHERE user_id = $1", bob.id, reason
        )
    await _disconnect(connected)

    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert (await revocation_of(connected.journey))["state"] == "superseded"
    assert connected.calls("revoke") == 0
    assert (await journey.get_token(connected.key, bob.id)).status_code == (200 if reason is None else 409)


@pytest.mark.usefixtures("whole_consent")
async def test_grant_that_nobody_else_uses_is_ended_although_it_is_a_whole_one(connected: Connected) -> None:
    await connect_account(connected.journey, connected.person, WORK, new_account=True)
    await _disconnect(connected)

    await connected.journey.container.integrations.revocations.revoke_due(TESTER)

    assert (await revocation_of(connected.journey))["state"] == "done"


async def test_disconnect_of_the_primary_account_makes_the_other_one_primary(connected: Connected) -> None:
    journey = connected.journey
    second = await connect_account(journey, connected.person, WORK, new_account=True)

    await _disconnect(connected)

    shown = (await journey.client.get(PATH, headers=connected.headers)).json()
    assert (shown["id"], shown["is_primary"]) == (second["id"], True)
    assert (await connected.get()).json()["integration_id"] == second["id"]


async def test_disconnect_of_the_primary_prefers_an_account_that_works(connected: Connected) -> None:
    journey = connected.journey
    dead = await connect_account(journey, connected.person, "dead@example.com", new_account=True)
    working = await connect_account(journey, connected.person, WORK, new_account=True)
    await journey.owner.execute(
        "UPDATE integrations SET status = 'needs_reauth', status_reason = 'grant_refused' WHERE id = $1",
        UUID(dead["id"]),
    )

    await _disconnect(connected)

    assert (await journey.client.get(PATH, headers=connected.headers)).json()["id"] == working["id"]


async def test_refresh_under_way_during_a_disconnect_stores_nothing(connected: Connected) -> None:
    journey = connected.journey
    await journey.age_tokens()
    connected.fail("delay", delay_seconds=600, when="after")
    reader = asyncio.create_task(connected.get())
    await journey.sandbox.ledger.wait_for(connected.party, "token.refresh", committed=True)

    ended = await _disconnect(connected)
    journey.sandbox.faults.clear()
    answer = await reader

    assert ended.status_code == 200
    assert_problem(answer, 404, "not_connected")
    assert await journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 0
    assert (await connected.row())["status"] == "disconnected"


async def test_flow_that_is_confirmed_after_a_disconnect_connects_anew(connected: Connected) -> None:
    ticket = await returned_flow(connected.journey, connected.person)
    await _disconnect(connected)

    response = await connected.journey.confirm(connected.person, PROVIDER, flow=ticket)

    assert (response.status_code, response.json()["status"]) == (201, "active")
    assert (await connected.get()).status_code == 200


async def test_own_account_that_is_deleted_has_all_its_connections_revoked(connected: Connected) -> None:
    journey = connected.journey
    await connect_account(journey, connected.person, WORK, new_account=True)

    await journey.client.delete("/users/me", headers=connected.headers)
    pending = await revocation_states(journey)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert pending == ["pending", "pending"]
    assert await revocation_states(journey) == ["done", "done"]
    assert await journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 0
    assert _grants_alive(journey) == _grants_alive(journey, WORK) == [False]


@pytest.mark.parametrize("by", ["admin", "clerk"])
async def test_deletion_by_others_holds_the_grants_back_until_a_restore(
    connected: Connected, admin: Headers, by: str
) -> None:
    journey = connected.journey
    if by == "admin":
        await journey.client.delete(f"/admin/users/{connected.user_id}", headers=admin)
    else:
        await journey.webhook("user.deleted", journey.sandbox.clerk.delete_user(connected.user_id))
    await journey.container.integrations.revocations.revoke_due(TESTER)
    refused = await connected.get()

    restored = await journey.client.post(f"/admin/users/{connected.user_id}/restore", headers=admin)

    assert restored.status_code == 200, restored.text
    assert_problem(refused, 404, "user_not_found")
    assert await revocation_states(journey) == []
    assert _grants_alive(journey) == [True]
    assert (await connected.get()).status_code == 200
    await journey.age_tokens()
    assert (await connected.get()).json()["refreshed"] is True


async def test_erasure_revokes_what_was_held_back_although_its_user_is_gone(
    connected: Connected, admin: Headers
) -> None:
    journey = connected.journey
    await journey.client.delete(f"/admin/users/{connected.user_id}", headers=admin)
    await journey.owner.execute("UPDATE users SET deleted_at = deleted_at - $1::interval", timedelta(days=31))

    await journey.container.users.erasure.erase_due(TESTER)
    users = await journey.owner.fetchval("SELECT count(*) FROM users WHERE id = $1", connected.user_id)
    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert users == await journey.owner.fetchval("SELECT count(*) FROM integrations") == 0
    row = await revocation_of(connected.journey)
    assert (row["state"], row["ciphertext"]) == ("done", None)
    assert _grants_alive(journey) == [False]
