"""Tests of what each kind of failure of a refresh does to an integration, and of how long the next refresh has to
wait."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.user_management.integrations.provider_gate import FAILURES
from services.user_management.services.token_service import RefreshOutcome
from services.user_management.tests.integration_scenes import (
    connect_account,
    offering,
    refresher_elsewhere,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions

pytestmark = pytest.mark.slow

COOL_DOWN = "SELECT extract(epoch FROM refresh_not_before - now())::float8 FROM integrations"
DETAILS = '[error_details]\nmembers = { error_subtype = "" }'
REVOKED = f'[errors]\ntoken_revoked = "revoked"\n\n{DETAILS}'


async def _fail_once(scene: Connected, **fault: Any) -> dict[str, Any]:
    """End the cool-down, let one refresh fail with `fault`, and return the integration's row afterwards."""
    await scene.set("refresh_not_before", None)
    scene.fail(fault.pop("action", "error"), **fault)
    await scene.get()
    return await scene.row()


async def _failing_for(scene: Connected, days: float) -> None:
    await scene.journey.owner.execute(
        "UPDATE integrations SET failing_since = now() - make_interval(secs => $1)", days * 86_400
    )


async def _events(journey: Journey) -> list[str]:
    return [row["event_type"] for row in await journey.owner.fetch("SELECT event_type FROM outbox_events ORDER BY seq")]


@pytest.fixture
async def stale(connected: Connected) -> Connected:
    """An integration whose access token has run out."""
    await connected.journey.age_tokens()
    return connected


async def test_consent_that_was_taken_back_revokes_the_connection(stale: Connected, tmp_path: Path) -> None:
    with offering(stale.journey.container, tmp_path, tables=REVOKED):
        stale.fail("error", error="token_revoked", members={"error_subtype": "by_user"})
        first = await stale.get()
        second = await stale.get()

    for response in (first, second):
        body = assert_problem(response, 409, "revoked")
        assert body["reason"] == "revoked_at_provider"
        assert body["reconnect_url"].startswith("http://localhost:3000/connect/")
    row = await stale.row()
    assert (row["status"], row["status_reason"]) == ("revoked", "revoked_at_provider")
    assert (row["last_failure"], row["last_failure_detail"]) == ("token_revoked", "by_user")
    assert (row["refresh_lease_owner"], row["refresh_lease_until"]) == (None, None)
    assert (await _events(stale.journey))[-1] == "integration.revoked"
    assert (await audit_actions(stale.journey, stale.user_id))[-1] == "integration.revoked"
    assert stale.calls() == 1


async def test_reconnect_brings_a_revoked_connection_back(stale: Connected) -> None:
    await stale.set("status", "revoked")
    await stale.set("status_reason", "revoked_at_provider")
    await stale.set("last_failure_detail", "by_user")

    again = await connect_account(stale.journey, stale.person, stale.person.email)

    row = await stale.row()
    assert (again["id"], again["status"], again["reconnect_url"]) == (stale.integration_id, "active", None)
    assert (row["last_failure"], row["last_failure_detail"], row["failing_since"]) == (None, None, None)
    assert (await stale.get()).status_code == 200


async def test_code_that_nobody_knows_degrades_after_three_and_asks_nobody(stale: Connected) -> None:
    rows = [await _fail_once(stale, error="who_knows") for _ in range(8)]

    assert [row["status"] for row in rows] == ["active"] * 2 + ["degraded"] * 6
    assert [row["refresh_failures"] for row in rows] == list(range(1, 9))
    assert len({row["failing_since"] for row in rows}) == 1
    assert rows[-1]["status_reason"] == "who_knows"
    assert (await _events(stale.journey)).count("integration.degraded") == 1
    assert "integration.needs_reauth" not in await _events(stale.journey)


async def test_code_that_nobody_knows_exhausts_after_three_days_and_six_failures(stale: Connected) -> None:
    for _ in range(3):
        await _fail_once(stale, error="who_knows")
    await _failing_for(stale, days=3.01)

    statuses = [(await _fail_once(stale, error="who_knows"))["status"] for _ in range(3)]

    assert statuses == ["degraded", "degraded", "needs_reauth"]
    assert (await stale.row())["status_reason"] == "refresh_exhausted"
    assert assert_problem(await stale.get(), 409, "needs_reauth")["reason"] == "refresh_exhausted"
    assert (await _events(stale.journey))[-1] == "integration.needs_reauth"


async def test_code_that_nobody_knows_does_not_exhaust_within_three_days(stale: Connected) -> None:
    for _ in range(7):
        await _fail_once(stale, error="who_knows")
    await _failing_for(stale, days=2.99)

    row = await _fail_once(stale, error="who_knows")

    assert (row["status"], row["refresh_failures"]) == ("degraded", 8)


async def test_single_refusal_after_days_of_an_outage_asks_nobody(stale: Connected) -> None:
    await stale.set("refresh_failures", 50)
    await stale.set("last_failure", "http_500")
    await _failing_for(stale, days=5)

    first = await _fail_once(stale, error="who_knows")
    second = await _fail_once(stale, error="who_knows")

    assert first["status"] == "degraded"
    assert (second["status"], second["status_reason"]) == ("needs_reauth", "refresh_exhausted")


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "status": 500},
        {"action": "status", "status": 429},
        {"action": "error", "error": "temporarily_unavailable"},
        {"action": "reset"},
        {"action": "html"},
    ],
    ids=str,
)
async def test_transient_failure_never_exhausts(stale: Connected, fault: dict[str, Any]) -> None:
    await stale.set("refresh_failures", 500)
    await _failing_for(stale, days=60)

    rows = [await _fail_once(stale, **fault) for _ in range(2)]

    assert [row["status"] for row in rows] == ["degraded", "degraded"]
    await stale.set("refresh_not_before", None)
    assert (await stale.get()).status_code == 200


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
async def test_operators_error_counts_as_nobodys_failure(stale: Connected, error: str) -> None:
    row = await _fail_once(stale, error=error)

    assert (row["status"], row["refresh_failures"], row["failing_since"]) == ("active", 0, None)
    assert row["last_failure"] == error


async def test_failure_is_described_and_a_success_clears_it(stale: Connected, tmp_path: Path) -> None:
    with offering(stale.journey.container, tmp_path, tables=DETAILS):
        failed = await _fail_once(stale, error="who_knows", members={"error_subtype": "invalid_rapt"})
        later = await _fail_once(stale, error="who_knows")
        await stale.set("refresh_not_before", None)
        recovered = await stale.get()

    row = await stale.row()
    assert (failed["last_failure"], failed["last_failure_detail"]) == ("who_knows", "invalid_rapt")
    assert failed["failing_since"] == later["failing_since"] is not None
    assert later["last_failure_detail"] is None
    assert recovered.status_code == 200, recovered.text
    assert (row["last_failure"], row["last_failure_detail"], row["failing_since"]) == (None, None, None)
    assert row["refresh_failures"] == 0


async def test_refused_grant_keeps_what_the_provider_said(stale: Connected, tmp_path: Path) -> None:
    with offering(stale.journey.container, tmp_path, tables=DETAILS):
        row = await _fail_once(stale, error="invalid_grant", members={"error_subtype": "invalid_rapt"})

    assert (row["status"], row["status_reason"]) == ("needs_reauth", "grant_refused")
    assert (row["last_failure"], row["last_failure_detail"]) == ("invalid_grant", "invalid_rapt")


async def test_degraded_connection_that_works_again_says_so_once(stale: Connected) -> None:
    for _ in range(3):
        await _fail_once(stale, error="who_knows")
    await stale.set("refresh_not_before", None)

    await stale.get()
    await stale.journey.age_tokens()
    await stale.get()

    events = [event for event in await _events(stale.journey) if event.startswith("integration.")]
    assert events == ["integration.connected", "integration.degraded", "integration.recovered"]
    assert (await stale.row())["status"] == "active"


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ({"action": "status", "status": 429, "headers": {"Retry-After": "120"}}, 120),
        ({"action": "status", "status": 503, "headers": {"Retry-After": "7"}}, 7),
        ({"error": "who_knows", "headers": {"Retry-After": "240"}}, 240),
        ({"action": "status", "status": 429, "headers": {"Retry-After": "999999"}}, 3600),
    ],
)
async def test_cool_down_is_as_long_as_the_provider_wishes_within_an_hour(
    stale: Connected, fault: dict[str, Any], seconds: float
) -> None:
    await _fail_once(stale, **fault)
    left = await stale.journey.owner.fetchval(COOL_DOWN)
    calls = stale.calls()

    during = await stale.get()

    assert seconds - 5 < left <= 1.1 * seconds
    assert_problem(during, 503, "provider_unavailable")
    assert seconds - 10 < int(during.headers["retry-after"]) <= 1.1 * seconds + 1
    assert stale.calls() == calls


@pytest.mark.parametrize("wish", [{}, {"headers": {"Retry-After": "0"}}, {"headers": {"Retry-After": "1"}}])
@pytest.mark.parametrize(("failures", "shortest", "longest"), [(0, 0.0, 1.5), (5, 10.0, 48.0), (40, 100.0, 450.0)])
async def test_cool_down_grows_with_the_failures_even_if_the_provider_wishes_a_short_one(
    stale: Connected, failures: int, shortest: float, longest: float, wish: dict[str, Any]
) -> None:
    await stale.set("refresh_failures", failures)
    await stale.set("failing_since", (await stale.row())["created_at"])

    await _fail_once(stale, error="who_knows", **wish)

    assert shortest <= await stale.journey.owner.fetchval(COOL_DOWN) + 5
    assert await stale.journey.owner.fetchval(COOL_DOWN) <= longest


@pytest.fixture
async def strict(journey: Journey) -> Connected:
    """An integration whose access token has run out, at a provider that accepts each refresh token once."""
    scene = await Connected.at(journey, "sandbox-strict")
    await journey.age_tokens()
    return scene


async def test_failure_without_a_detail_leaves_none_of_the_former_one(stale: Connected, tmp_path: Path) -> None:
    with offering(stale.journey.container, tmp_path, tables=DETAILS):
        first = await _fail_once(stale, error="who_knows", members={"error_subtype": "policy"})
        await _fail_once(stale, error="invalid_grant")

    row = await stale.row()
    assert (first["last_failure"], first["last_failure_detail"]) == ("who_knows", "policy")
    assert (row["status"], row["last_failure"], row["last_failure_detail"]) == ("needs_reauth", "invalid_grant", None)


async def test_breaker_of_one_process_keeps_no_other_from_asking(stale: Connected) -> None:
    container = stale.journey.container
    for _ in range(FAILURES):
        last = await _fail_once(stale, action="status", status=500)
    await stale.set("refresh_not_before", None)
    before = await stale.row()

    held_back = await stale.get()
    untouched = await stale.row()
    elsewhere = await refresher_elsewhere(container).refresh(UUID(stale.integration_id), 1)

    assert last["last_failure"] == "http_500"
    body = assert_problem(held_back, 503, "provider_unavailable")
    assert int(held_back.headers["Retry-After"]) > 1, body
    assert untouched == before
    assert elsewhere.outcome is RefreshOutcome.REFRESHED


async def test_caller_whose_process_holds_the_provider_back_gets_what_another_is_fetching(stale: Connected) -> None:
    for _ in range(FAILURES):
        await _fail_once(stale, action="status", status=500)
    await stale.set("refresh_not_before", None)
    stale.fail("delay", delay_seconds=600)
    other = asyncio.create_task(refresher_elsewhere(stale.journey.container).refresh(UUID(stale.integration_id), 1))
    await stale.journey.sandbox.ledger.wait_for(stale.party, "token.refresh", at_least=FAILURES + 1)

    caller = asyncio.create_task(stale.get())
    await asyncio.wait([caller], timeout=0.3)
    stale.journey.sandbox.faults.clear()

    assert (await caller).status_code == 200
    assert (await other).outcome is RefreshOutcome.REFRESHED


async def test_call_that_had_no_turn_leaves_the_last_failure_and_the_connection_to_others(stale: Connected) -> None:
    failed = await _fail_once(stale, error="who_knows")
    await stale.set("refresh_not_before", None)
    gate = stale.journey.container.integrations.connect_flows.oauth.gate
    slots = gate._entrance(stale.provider, 1).slots
    for _ in range(slots._value):
        await slots.acquire()

    response = await stale.get()

    row = await stale.row()
    assert_problem(response, 503, "provider_unavailable")
    assert stale.calls() == 1
    assert (row["last_failure"], row["refresh_failures"]) == (failed["last_failure"], 1)
    assert (row["refresh_lease_owner"], row["refresh_attempts"]) == (None, 0)
    assert await stale.journey.owner.fetchval(COOL_DOWN) <= 1


async def test_call_that_had_no_turn_does_not_count_among_those_whose_end_is_unknown(strict: Connected) -> None:
    lost = await _fail_once(strict, action="reset")
    await strict.set("refresh_not_before", None)
    slots = strict.journey.container.integrations.connect_flows.oauth.gate._entrance(strict.provider, 1).slots
    for _ in range(slots._value):
        await slots.acquire()

    await strict.get()

    row = await strict.row()
    assert (lost["refresh_attempts"], row["refresh_attempts"]) == (1, 1)
    assert (row["refresh_lease_owner"], strict.calls()) == (None, 1)


async def test_lost_answers_of_a_strict_provider_leave_the_verdict_to_the_provider(strict: Connected) -> None:
    rows = [await _fail_once(strict, action="reset_mid_body") for _ in range(2)]
    await strict.set("refresh_not_before", None)

    refused = await strict.get()

    assert [row["status"] for row in rows] == ["active", "active"]
    assert assert_problem(refused, 409, "needs_reauth")["reason"] == "refresh_interrupted"


@pytest.mark.parametrize("before", [{"action": "reset"}, {"action": "status", "status": 503}])
async def test_requests_that_never_reach_a_strict_provider_cost_nothing(
    strict: Connected, before: dict[str, Any]
) -> None:
    rows = [await _fail_once(strict, **fault) for fault in (before, {"action": "reset"}, {"action": "reset"})]
    await strict.set("refresh_not_before", None)

    response = await strict.get()

    assert {row["status"] for row in rows} <= {"active", "degraded"}
    assert response.status_code == 200, response.text
    assert (await strict.row())["status"] == "active"


async def test_pauses_after_lost_answers_of_a_strict_provider_grow_to_minutes(strict: Connected) -> None:
    pauses = []
    for _ in range(4):
        await _fail_once(strict, action="reset")
        pauses.append(await strict.journey.owner.fetchval(COOL_DOWN))

    for pause, nominal in zip(pauses, (16, 62, 244, 300), strict=True):
        assert 0.5 * nominal - 5 <= pause <= 1.5 * nominal


async def test_two_answered_failures_of_a_strict_provider_cost_nothing(strict: Connected) -> None:
    rows = [await _fail_once(strict, action="status", status=500) for _ in range(2)]
    await strict.set("refresh_not_before", None)

    response = await strict.get()

    assert [row["status"] for row in rows] == ["active", "active"]
    assert response.status_code == 200, response.text
    assert (await strict.journey.userinfo(response.json()["access_token"], "strict")).status_code == 200


async def test_lost_answer_of_a_grace_provider_is_asked_for_again(journey: Journey) -> None:
    grace = await Connected.at(journey, "sandbox-grace")
    await journey.age_tokens()

    for _ in range(2):
        await _fail_once(grace, action="reset_mid_body")
    await grace.set("refresh_not_before", None)
    response = await grace.get()

    assert response.status_code == 200, response.text
    assert (await grace.row())["status"] == "active"


async def test_answer_that_no_longer_grants_what_is_required_needs_the_user(stale: Connected) -> None:
    stale.fail("scope_narrowed", scope="openid calendar.read")

    body = assert_problem(await stale.get(), 409, "needs_reauth")

    row = await stale.row()
    assert body["reason"] == "scope_upgrade"
    assert body["reconnect_url"].startswith("http://localhost:3000/connect/")
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "scope_upgrade")
    assert (await _events(stale.journey))[-1] == "integration.needs_reauth"


async def test_answer_that_grants_less_than_was_chosen_is_kept_and_shown(stale: Connected) -> None:
    stale.fail("scope_narrowed", scope="openid email offline_access")

    response = await stale.get()

    assert response.status_code == 200, response.text
    assert response.json()["scopes"] == ["email", "offline_access", "openid"]
    assert_problem(await stale.get(scopes=["calendar.read"]), 403, "insufficient_scope")
    shown = await stale.journey.client.get("/users/me/integrations/sandbox-static", headers=stale.headers)
    assert (shown.json()["status"], shown.json()["missing_scopes"]) == ("active", ["calendar.read"])
