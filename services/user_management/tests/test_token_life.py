"""Tests of how much life a handed-out token has left, and of what failed refreshes do to token reads and
integrations."""

import asyncio
from typing import Any

import pytest

from services.sandbox.faults import FaultAction
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions, read_outcomes


async def _end_cool_down(scene: Connected) -> None:
    await scene.set("refresh_not_before", None)


async def test_hard_demand_beyond_half_the_issued_life_is_capped(connected: Connected) -> None:
    response = await connected.get(min_ttl_seconds=86_400)

    assert response.status_code == 200, response.text
    assert response.json()["refreshed"] is False
    assert connected.calls() == 0


async def test_hard_demand_that_the_token_cannot_meet_refreshes_it(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=1000)

    within = await connected.get(min_ttl_seconds=900)
    beyond = await connected.get(min_ttl_seconds=1100)

    assert within.json()["refreshed"] is False
    assert 900 < within.json()["expires_in"] <= 1000
    assert beyond.json()["refreshed"] is True
    assert beyond.json()["expires_in"] > 3500


@pytest.mark.parametrize(("seconds_left", "refreshed"), [(290, True), (320, False)])
async def test_default_demand_is_five_minutes(connected: Connected, seconds_left: float, *, refreshed: bool) -> None:
    await connected.journey.age_tokens(seconds_left=seconds_left)

    response = await connected.get()

    assert response.json()["refreshed"] is refreshed


@pytest.mark.slow
async def test_soft_demand_hands_out_what_is_left_while_the_provider_is_down(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=60)
    connected.fail("status", status=500, times=2)

    response = await connected.get()

    assert response.status_code == 200, response.text
    assert response.json()["refreshed"] is False
    assert 30 <= response.json()["expires_in"] <= 60
    assert connected.calls() == 1
    assert await read_outcomes(connected.journey) == ["granted"]


@pytest.mark.parametrize(("seconds_left", "body"), [(1000, {"min_ttl_seconds": 2000}), (25, {}), (-1, {})])
async def test_demand_that_cannot_be_met_while_the_provider_is_down_is_unavailable(
    connected: Connected, seconds_left: float, body: dict[str, Any]
) -> None:
    await connected.journey.age_tokens(seconds_left=seconds_left)
    connected.fail("status", status=500)

    response = await connected.get(**body)

    assert_problem(response, 503, "provider_unavailable")
    assert await read_outcomes(connected.journey) == []


async def test_cool_down_keeps_callers_away_from_a_provider_that_failed(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("status", status=429, headers={"Retry-After": "7"})

    first = await connected.get()
    second = await connected.get()

    assert assert_problem(first, 503, "provider_unavailable")
    assert first.headers["retry-after"] == "8"  # a little after the wish
    assert assert_problem(second, 503, "provider_unavailable")
    assert 5 <= int(second.headers["retry-after"]) <= 8
    assert connected.calls() == 1


async def test_refresh_for_many_callers_at_once_is_one_call(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("delay", delay_seconds=0.2)

    responses = await asyncio.gather(*(connected.get() for _ in range(20)))

    assert {response.status_code for response in responses} == {200}
    assert len({response.json()["access_token"] for response in responses}) == 1
    assert connected.calls() == 1


async def test_refused_grant_needs_its_user(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="invalid_grant")

    refused = await connected.get()
    again = await connected.get()

    body = assert_problem(refused, 409, "needs_reauth")
    assert body["reason"] == "grant_refused"
    assert body["reconnect_url"].startswith("http://localhost:3000/connect/sandbox-static")
    assert_problem(again, 409, "needs_reauth")
    assert connected.calls() == 1
    assert (await audit_actions(connected.journey))[-1] == "integration.needs_reauth"
    assert await read_outcomes(connected.journey) == ["needs_reauth", "needs_reauth"]


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "invalid_request"])
async def test_operators_error_leaves_the_connection_as_it_is(connected: Connected, error: str) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error=error, times=4)

    for _ in range(4):
        assert_problem(await connected.get(), 502, "provider_misconfigured")
        await _end_cool_down(connected)

    row = await connected.row()
    assert (row["status"], row["token_version"], row["last_failure"]) == ("active", 1, error)


async def test_operators_error_hands_out_what_is_left(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=120)
    connected.fail("error", error="invalid_client")

    response = await connected.get()

    assert response.status_code == 200, response.text
    assert response.json()["expires_in"] <= 120


LOST_ANSWERS: list[tuple[FaultAction, dict[str, Any]]] = [
    ("status", {"status": 500}),
    ("status", {"status": 500, "when": "after"}),
    ("status", {"status": 429}),
    ("status", {"status": 200, "body": {"token_type": "Bearer"}}),
    ("status", {"status": 400, "body": {"error": "who_knows"}}),
    ("status", {"status": 400, "body": {"error": {"code": 190}}}),
    ("status", {"status": 400, "body": {"error": "a\x00b"}}),
    ("status", {"status": 200, "body": "[" * 100_000}),
    ("error", {"error": "temporarily_unavailable"}),
    ("html", {}),
    ("html", {"status": 403}),
    ("oversize", {}),
    ("reset", {}),
    ("reset", {"when": "after"}),
    ("reset_mid_body", {}),
    ("truncated_json", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("action", "fields"), LOST_ANSWERS)
async def test_answer_that_is_lost_costs_nothing(
    connected: Connected, action: FaultAction, fields: dict[str, Any]
) -> None:
    refresh_token = await connected.ciphertext("refresh")
    await connected.journey.age_tokens()
    connected.fail(action, **fields)

    failed = await connected.get()
    status_after_failure = (await connected.row())["status"]
    await _end_cool_down(connected)
    recovered = await connected.get()

    assert_problem(failed, 503, "provider_unavailable")
    assert status_after_failure == "active"
    assert recovered.status_code == 200, recovered.text
    assert await connected.ciphertext("refresh") == refresh_token
    assert (await connected.journey.userinfo(recovered.json()["access_token"])).status_code == 200


async def test_third_failure_in_a_row_degrades_and_a_success_recovers(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("status", status=503, times=3)
    statuses = []

    for _ in range(3):
        await connected.get()
        statuses.append((await connected.row())["status"])
        await _end_cool_down(connected)
    recovered = await connected.get()

    assert statuses == ["active", "active", "degraded"]
    assert recovered.status_code == 200
    row = await connected.row()
    assert (row["status"], row["refresh_failures"], row["last_failure"]) == ("active", 0, None)
    assert (await audit_actions(connected.journey))[-3:] == [
        "integration.degraded",
        "integration.token_refreshed",
        "integration.recovered",
    ]


@pytest.mark.parametrize("action", ["expires_in_missing", "expires_in_string"])
async def test_answer_with_an_unclear_life_is_kept_and_counts_as_short(
    connected: Connected, action: FaultAction
) -> None:
    await connected.journey.age_tokens()
    connected.fail(action)

    response = await connected.get()

    assert response.status_code == 200, response.text
    assert 0 < response.json()["expires_in"] <= 600
    assert (await connected.journey.userinfo(response.json()["access_token"])).status_code == 200
    assert (await connected.row())["status"] == "active"


@pytest.mark.parametrize("expires_in", [0, -1, -(10**9), "0"])
async def test_answer_without_any_life_is_kept_but_never_handed_out(connected: Connected, expires_in: Any) -> None:
    await connected.journey.age_tokens()
    body = {"access_token": "stillborn", "token_type": "Bearer", "expires_in": expires_in, "refresh_token": "next"}
    connected.fail("status", status=200, body=body)

    first = await connected.get()
    second = await connected.get()

    for response in (first, second):
        assert_problem(response, 503, "provider_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
    assert connected.calls("token.refresh") == 1
    row = await connected.row()
    assert (row["status"], row["token_version"]) == ("active", 2)


@pytest.mark.parametrize("expires_in", [10**400, "NaN", "1e999", [], {}, 10**9])
async def test_answer_with_any_other_life_is_never_a_crash(connected: Connected, expires_in: Any) -> None:
    await connected.journey.age_tokens()
    body = {"access_token": "fresh", "token_type": "Bearer", "expires_in": expires_in}
    connected.fail("status", status=200, body=body)

    response = await connected.get()

    assert response.status_code == 200, response.text
    assert response.json()["access_token"] == "fresh"
    assert 0 < response.json()["expires_in"] <= 600


@pytest.mark.parametrize("kind", ["overlap", "grace", "strict"])
async def test_rotated_refresh_token_replaces_the_old_one(journey: Journey, kind: str) -> None:
    scene = await Connected.at(journey, f"sandbox-{kind}")
    first = await scene.ciphertext("refresh")

    for _ in range(2):
        await journey.age_tokens()
        assert (await scene.get()).json()["refreshed"] is True

    assert await scene.ciphertext("refresh") != first
    used = [entry.refresh_token for entry in journey.sandbox.ledger.entries(scene.party, "token.refresh")]
    assert len(set(used)) == 2


async def test_answer_without_a_refresh_token_keeps_the_old_one(journey: Journey) -> None:
    scene = await Connected.at(journey, "sandbox-overlap")
    before = await scene.ciphertext("refresh")
    await journey.age_tokens()
    scene.fail("no_refresh_token")

    response = await scene.get()

    assert response.status_code == 200, response.text
    assert await scene.ciphertext("refresh") == before


async def test_interrupted_refresh_at_a_strict_provider_says_so(journey: Journey) -> None:
    scene = await Connected.at(journey, "sandbox-strict")
    await journey.age_tokens()
    scene.fail("reset", when="after")

    unknown = await scene.get()
    await _end_cool_down(scene)
    settled = await scene.get()

    assert_problem(unknown, 503, "provider_unavailable")
    assert assert_problem(settled, 409, "needs_reauth")["reason"] == "refresh_interrupted"
    assert scene.calls() == 2


async def test_connection_without_a_refresh_token_works_until_its_token_ends(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await connected.journey.age_tokens(seconds_left=120)

    early = await connected.get()
    await _end_cool_down(connected)
    await connected.journey.age_tokens()
    late = await connected.get()

    assert early.status_code == 200, early.text
    assert early.json()["expires_in"] <= 120
    assert assert_problem(late, 409, "needs_reauth")["reason"] == "no_refresh_token"
    assert connected.calls() == 0


async def test_provider_that_is_no_longer_configured_is_unknown(connected: Connected) -> None:
    await connected.set("provider", "sandbox-retired")

    response = await connected.journey.get_token(connected.key, connected.user_id, "sandbox-retired")

    assert_problem(response, 404, "unknown_provider")
