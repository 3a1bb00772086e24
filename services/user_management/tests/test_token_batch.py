"""Tests of `POST /internal/tokens/batch-get`: up to a hundred token reads at once, each answered as if it were
alone."""

import asyncio
from typing import Any

import httpx
import pytest

from services.user_management.container import Container
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits
from services.user_management.services.token_service import read as read_module
from services.user_management.services.token_service.answers import TokenAnswers
from services.user_management.services.token_service.read import BATCH_CONCURRENCY
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.integration_scenes import PROVIDER, WORK, connect_account
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import Connected, assert_problem, read_outcomes

pytestmark = pytest.mark.slow

PATH = "/internal/tokens/batch-get"
Item = dict[str, Any]


def _item(scene: Connected, **members: Any) -> Item:
    return {"user_id": scene.user_id, "provider": PROVIDER, **members}


async def _batch(scene: Connected, *items: Any, key: dict[str, str] | None = None) -> httpx.Response:
    return await scene.journey.client.post(PATH, headers=key or scene.key, json={"items": list(items)})


async def _members(scene: Connected, *items: Item, key: dict[str, str] | None = None) -> list[dict[str, Any]]:
    response = await _batch(scene, *items, key=key)
    assert response.status_code == 200, response.text
    members: list[dict[str, Any]] = response.json()["items"]
    return members


async def test_batch_answers_in_the_order_of_the_requests(connected: Connected) -> None:
    bob = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    second = await connect_account(connected.journey, connected.person, WORK, new_account=True)

    members = await _members(
        connected,
        _item(bob),
        _item(connected, account=WORK),
        _item(connected, user_id="user_nobody"),
        _item(connected),
        _item(bob),
    )

    ids = [member["token"] and member["token"]["integration_id"] for member in members]
    assert ids == [bob.integration_id, second["id"], None, connected.integration_id, bob.integration_id]
    assert members[2]["problem"]["type"] == "user_not_found"
    assert [member["problem"] for member in (*members[:2], *members[3:])] == [None] * 4


async def test_batch_member_equals_the_answer_alone(connected: Connected) -> None:
    (member,) = await _members(connected, _item(connected, scopes=["email"]))
    alone = (await connected.get(scopes=["email"])).json()

    assert member["token"] | {"expires_in": 0} == alone | {"expires_in": 0}
    assert abs(member["token"]["expires_in"] - alone["expires_in"]) <= 5
    assert (await connected.journey.userinfo(member["token"]["access_token"])).status_code == 200


async def test_batch_members_are_refused_each_for_its_own_reason(connected: Connected) -> None:
    journey = connected.journey
    people = {}
    for name, status in (("dead", "needs_reauth"), ("gone", "revoked")):
        people[name] = await Connected.at(journey, email=f"{name}@example.com", key=connected.key)
        await people[name].set("status", status)
        await people[name].set("status_reason", "grant_refused")
    suspended = await Connected.at(journey, email="suspended@example.com", key=connected.key)
    await journey.owner.execute("UPDATE users SET status = 'suspended' WHERE id = $1", suspended.user_id)
    newcomer = await journey.sign_up("new@example.com")
    items = {
        "granted": _item(connected),
        "unknown_provider": _item(connected, provider="myspace"),
        "grant_denied": _item(connected, provider="sandbox-strict"),
        "user_not_found": _item(connected, user_id="user_nobody"),
        "user_inactive": _item(suspended),
        "not_connected": _item(connected, user_id=newcomer.id),
        "needs_reauth": _item(people["dead"]),
        "revoked": _item(people["gone"]),
        "insufficient_scope": _item(connected, scopes=["mail.read", "email"]),
    }

    members = await _members(connected, *items.values())

    found = [member["problem"]["type"] if member["problem"] else "granted" for member in members]
    assert found == list(items)
    problems = {member["problem"]["type"]: member["problem"] for member in members if member["problem"]}
    assert {code: problem["status"] for code, problem in problems.items()} == {
        "unknown_provider": 404,
        "grant_denied": 403,
        "user_not_found": 404,
        "user_inactive": 403,
        "not_connected": 404,
        "needs_reauth": 409,
        "revoked": 409,
        "insufficient_scope": 403,
    }
    assert problems["needs_reauth"]["reason"] == "grant_refused"
    assert problems["insufficient_scope"]["missing_scopes"] == ["mail.read"]
    for code in ("not_connected", "needs_reauth", "revoked", "insufficient_scope"):
        assert problems[code]["reconnect_url"].startswith("http://localhost:3000/connect/")
    assert sorted(await read_outcomes(journey)) == sorted(items)


async def test_batch_member_without_a_demanded_reason_is_refused_alone(connected: Connected) -> None:
    key = await connected.journey.service_key(name="auditor", reason_required=True)

    members = await _members(connected, _item(connected), _item(connected, reason="nightly"), key=key)

    assert members[0]["problem"]["type"] == "reason_required"
    assert members[1]["token"] is not None


async def test_batch_member_without_a_grant_leaves_no_reason(connected: Connected) -> None:
    items = [_item(connected, reason="nightly"), {**_item(connected, reason="hello"), "provider": "sandbox-strict"}]

    await _members(connected, *items)

    rows = await connected.journey.owner.fetch("SELECT outcome, reason FROM token_reads ORDER BY outcome")
    assert [tuple(row) for row in rows] == [("grant_denied", None), ("granted", "nightly")]


async def test_batch_of_warm_tokens_is_one_statement(connected: Connected) -> None:
    await _members(connected, *[_item(connected, reason=f"read {number}") for number in range(100)])

    reads = await connected.journey.owner.fetchrow(
        "SELECT count(*) AS reads, count(DISTINCT read_at) AS moments, count(DISTINCT reason) AS reasons,"
        " count(DISTINCT request_id) AS requests FROM token_reads"
    )
    # `read_at` is the time of the transaction, so that one moment means one statement.
    assert tuple(reads or ()) == (100, 1, 100, 1)
    assert connected.calls() == 0


async def test_batch_refreshes_what_is_stale_once_each(connected: Connected) -> None:
    journey = connected.journey
    bob = await Connected.at(journey, email="bob@example.com", key=connected.key)
    await journey.age_tokens()
    warm = await Connected.at(journey, email="warm@example.com", key=connected.key)
    connected.fail("delay", delay_seconds=0.05, times=2)

    members = await _members(connected, *[_item(scene) for scene in (connected, bob, warm, connected, bob, connected)])

    tokens = [member["token"]["access_token"] for member in members]
    assert tokens[0] == tokens[3] == tokens[5]
    assert tokens[1] == tokens[4]
    assert [member["token"]["refreshed"] for member in members] == [True, True, False, True, True, True]
    assert connected.calls() == 2
    assert await read_outcomes(journey) == ["granted"] * 6


async def test_batches_at_once_refresh_once(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("delay", delay_seconds=0.05)

    responses = await asyncio.gather(*(_batch(connected, _item(connected), _item(connected)) for _ in range(10)))

    tokens = {item["token"]["access_token"] for response in responses for item in response.json()["items"]}
    assert len(tokens) == 1
    assert connected.calls() == 1


async def test_batch_answers_in_time_and_what_is_out_is_there_for_the_next_call(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_module, "BATCH_SECONDS", 2.0)
    journey, container = connected.journey, connected.journey.container
    emails = [f"stale-{number}@example.com" for number in range(BATCH_CONCURRENCY + 1)]
    stale = [connected, *[await Connected.at(journey, email=email, key=connected.key) for email in emails]]
    await journey.age_tokens()
    warm = [await Connected.at(journey, email="warm@example.com", key=connected.key)]
    items = [_item(scene) for scene in (*stale, *warm)]
    connected.fail("delay", delay_seconds=3, times=len(stale))

    first = await _members(connected, *items)
    out = journey.sandbox.ledger.entries(connected.party, "token.refresh")
    journey.sandbox.faults.clear()
    await container.tokens.refresher.drain(10)
    refreshed_meanwhile = await journey.owner.fetchval("SELECT count(*) FROM integrations WHERE token_version = 2")
    monkeypatch.undo()
    second = await _members(connected, *items)

    problems = [member["problem"] for member in first[: len(stale)]]
    assert {(problem["type"], problem["status"]) for problem in problems} == {("provider_unavailable", 503)}
    assert all(problem["retry_after"] >= 1 for problem in problems)
    assert all(member["token"] for member in first[len(stale) :])
    assert 1 <= len(out) == refreshed_meanwhile <= BATCH_CONCURRENCY
    assert all(member["token"] for member in second)
    assert connected.calls() == len(stale)


async def test_batch_member_whose_provider_is_down_tells_when_to_come_again(connected: Connected) -> None:
    journey = connected.journey
    await journey.age_tokens()
    warm = await Connected.at(journey, email="warm@example.com", key=connected.key)
    connected.fail("status", status=503, headers={"Retry-After": "9"})

    members = await _members(connected, _item(connected), _item(warm))

    problem = members[0]["problem"]
    assert (problem["type"], problem["status"], problem["retry_after"]) == ("provider_unavailable", 503, 10)
    assert members[1]["token"] is not None
    assert await read_outcomes(journey) == ["granted"]


async def test_batch_member_that_refuses_our_client_spoils_no_other(connected: Connected) -> None:
    await connected.journey.age_tokens()
    warm = await Connected.at(connected.journey, email="warm@example.com", key=connected.key)
    connected.fail("error", error="invalid_client")

    members = await _members(connected, _item(connected), _item(warm))

    assert (members[0]["problem"]["type"], members[0]["problem"]["status"]) == ("provider_misconfigured", 502)
    assert members[1]["token"] is not None


async def test_batch_member_that_cannot_be_read_spoils_no_other(connected: Connected) -> None:
    bob = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    await connected.store("access", await bob.ciphertext("access"))

    members = await _members(connected, _item(bob), _item(connected), _item(bob))

    assert members[1]["problem"]["type"] == "needs_reauth"
    assert members[1]["problem"]["reason"] == "token_unreadable"
    assert members[0]["token"] is not None
    assert members[2]["token"] is not None
    assert (await connected.row())["status"] == "needs_reauth"
    assert (await bob.row())["status"] == "active"


async def test_batch_that_fails_in_a_way_nobody_foresaw_leaves_no_member_running(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected.journey.age_tokens()
    warm = await Connected.at(connected.journey, email="warm@example.com", key=connected.key)
    connected.fail("delay", delay_seconds=0.5)
    answer = TokenAnswers.answer

    async def fail_for_the_warm(self: TokenAnswers, request: Any, reading: Any, result: Any) -> Any:
        if reading.user_id == warm.user_id:
            raise RuntimeError("nobody foresaw it")
        return await answer(self, request, reading, result)

    monkeypatch.setattr(TokenAnswers, "answer", fail_for_the_warm)

    response = await _batch(connected, _item(connected), _item(warm))
    refreshed = (await connected.row())["token_version"]

    assert (response.status_code, refreshed) == (500, 2)


async def test_batch_demands_of_life_are_each_members_own(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=1000)

    members = await _members(connected, _item(connected, min_ttl_seconds=900))
    calls_within = connected.calls()
    beyond = await _members(connected, _item(connected), _item(connected, min_ttl_seconds=1100))

    assert 900 < members[0]["token"]["expires_in"] <= 1000
    assert calls_within == 0
    assert beyond[1]["token"]["expires_in"] > 3500
    assert connected.calls() == 1


async def test_batch_with_a_key_that_is_not_good_is_refused_as_a_whole(connected: Connected) -> None:
    unknown = {"Authorization": f"Bearer ums_{'0' * 12}_{'0' * 64}"}

    response = await _batch(connected, _item(connected), key=unknown)

    assert_problem(response, 401, "unauthenticated")
    assert_problem(await _batch(connected, _item(connected), key=connected.headers), 401, "unauthenticated")
    assert await read_outcomes(connected.journey) == []


@pytest.mark.parametrize("count", [0, 101])
async def test_batch_of_none_or_too_many_is_refused(connected: Connected, count: int) -> None:
    response = await _batch(connected, *[_item(connected)] * count)

    assert_problem(response, 422, "validation_failed")
    assert await read_outcomes(connected.journey) == []


@pytest.mark.parametrize("item", [{}, None, "x", {"user_id": "user_x", "provider": "UP"}, {"surprise": 1}], ids=str)
async def test_batch_with_an_item_that_is_no_request_is_refused_and_names_it(connected: Connected, item: Any) -> None:
    response = await _batch(connected, _item(connected), item)

    errors = assert_problem(response, 422, "validation_failed")["details"]["errors"]
    assert {tuple(error["loc"][:3]) for error in errors} == {("body", "items", "1")}
    assert await read_outcomes(connected.journey) == []


async def test_batch_spends_the_allowance_of_each_item(
    connected: Connected, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = container.resources.settings.limits.policies() | {RateClass.INTERNAL: QuotaPolicy(10, 60)}
    limits = RateLimits(container.resources.redis, policies, container.resources.clock)
    replace_in_group(monkeypatch, container, "resources", rate_limits=limits)

    first = await _batch(connected, *[_item(connected)] * 6)
    second = await _batch(connected, *[_item(connected)] * 6)
    alone = await connected.get()

    assert first.status_code == 200, first.text
    assert_problem(second, 429, "rate_limited")
    assert_problem(alone, 429, "rate_limited")
    assert int(second.headers["retry-after"]) >= 1
    assert await read_outcomes(connected.journey) == ["granted"] * 6
