"""Tests of the routes by which the product changes integrations: metadata, the primary account, a refresh on demand;
and of users with several accounts at a provider."""

import asyncio
import itertools
from contextvars import Context
from typing import Any

import httpx
import pytest

from services.user_management.core.ids import uuid7
from services.user_management.queries import integration as integration_queries
from services.user_management.queries.integration import Consent
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    CONNECT_PAGE,
    PROVIDER,
    WORK,
    connect_account,
    returned_flow,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions, only_row

PATH = f"/users/me/integrations/{PROVIDER}"
PRIMARIES = "SELECT array_agg(provider_account_id) FROM integrations WHERE is_primary"


async def _patch(scene: Connected, body: Any, account: str | None = None) -> httpx.Response:
    params = {"account": account} if account is not None else {}
    return await scene.journey.client.patch(PATH, headers=scene.headers, json=body, params=params)


async def _refresh(scene: Connected, account: str | None = None) -> httpx.Response:
    params = {"account": account} if account is not None else {}
    return await scene.journey.client.put(f"{PATH}/refresh", headers=scene.headers, params=params)


async def _get(scene: Connected, account: str | None = None) -> httpx.Response:
    params = {"account": account} if account is not None else {}
    return await scene.journey.client.get(PATH, headers=scene.headers, params=params)


async def test_metadata_patch_adds_replaces_and_removes(connected: Connected) -> None:
    first = await _patch(connected, {"metadata": {"label": "Private", "colour": "blue"}})

    second = await _patch(connected, {"metadata": {"label": "Work", "colour": None, "team": "Räder", "none": None}})

    assert first.json()["metadata"] == {"label": "Private", "colour": "blue"}
    assert second.json()["metadata"] == {"label": "Work", "team": "Räder"}
    assert (await _get(connected)).json() == second.json()
    assert (await audit_actions(connected.journey, connected.user_id))[-2:] == ["integration.metadata_changed"] * 2


async def test_metadata_patch_with_null_removes_all_of_it(connected: Connected) -> None:
    await _patch(connected, {"metadata": {"label": "Private"}})

    response = await _patch(connected, {"metadata": None})

    assert response.json()["metadata"] == {}
    assert (await connected.row())["metadata"] is None


@pytest.mark.parametrize(
    "body", [{}, {"metadata": {}}, {"metadata": {"label": "Private", "gone": None}}, {"is_primary": True}]
)
async def test_patch_that_changes_nothing_leaves_no_trace(connected: Connected, body: dict[str, Any]) -> None:
    await _patch(connected, {"metadata": {"label": "Private"}})
    before = await connected.row(), await audit_actions(connected.journey)

    response = await _patch(connected, body)

    assert response.status_code == 200, response.text
    assert (await connected.row(), await audit_actions(connected.journey)) == before


async def test_metadata_holds_twenty_entries_and_not_one_more(connected: Connected) -> None:
    twenty = {f"note_{number}": "x" for number in range(20)}
    full = await _patch(connected, {"metadata": twenty})

    one_more = await _patch(connected, {"metadata": {"note_20": "x"}})
    swapped = await _patch(connected, {"metadata": {"note_0": None, "note_20": "x"}})

    assert full.json()["metadata"] == twenty
    assert_problem(one_more, 422, "validation_failed")
    assert len(swapped.json()["metadata"]) == 20
    assert "note_20" in swapped.json()["metadata"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"label": "line\nbreak"}},
        {"metadata": {"label": "\x00"}},
        {"metadata": {"label": "right\u202eleft"}},
        {"metadata": {"label": "x" * 201}},
        {"metadata": {"label": 7}},
        {"metadata": {"label": ["a"]}},
        {"metadata": {"label": {"nested": "x"}}},
        {"metadata": {"Label": "x"}},
        {"metadata": {"": "x"}},
        {"metadata": {"a" * 41: "x"}},
        {"metadata": {"__proto__": "x"}},
        {"metadata": "label"},
        {"metadata": ["label"]},
        {"is_primary": False},
        {"is_primary": "true"},
        {"status": "active"},
        {"granted_scopes": ["mail.read"]},
        [],
        "x",
    ],
    ids=str,
)
async def test_patch_refuses_what_is_not_the_products_to_change(connected: Connected, body: Any) -> None:
    before = await connected.row()

    response = await _patch(connected, body)

    assert_problem(response, 422, "validation_failed")
    assert await connected.row() == before


async def test_metadata_patches_at_once_lose_none_of_each_other(connected: Connected) -> None:
    names = [f"note_{number}" for number in range(20)]

    responses = await asyncio.gather(*(_patch(connected, {"metadata": {name: "x"}}) for name in names))

    assert {response.status_code for response in responses} == {200}
    assert sorted((await _get(connected)).json()["metadata"]) == sorted(names)


async def test_primary_moves_to_the_account_that_is_named(connected: Connected) -> None:
    second = await connect_account(connected.journey, connected.person, WORK, new_account=True)

    moved = await _patch(connected, {"is_primary": True}, account=WORK)

    assert moved.json()["id"] == second["id"]
    assert moved.json()["is_primary"] is True
    assert (await _get(connected)).json()["id"] == second["id"]
    assert (await connected.get()).json()["integration_id"] == second["id"]
    assert await connected.journey.owner.fetchval(PRIMARIES) == [second["provider_account_id"]]
    assert (await audit_actions(connected.journey, connected.user_id))[-1] == "integration.made_primary"


async def test_twenty_moves_of_the_primary_at_once_end_with_exactly_one(connected: Connected) -> None:
    await connect_account(connected.journey, connected.person, WORK, new_account=True)
    accounts = [connected.person.email, WORK] * 10

    responses = await asyncio.gather(*(_patch(connected, {"is_primary": True}, account=name) for name in accounts))

    assert {response.status_code for response in responses} == {200}
    assert all(response.json()["is_primary"] for response in responses)
    assert len(await connected.journey.owner.fetchval(PRIMARIES)) == 1
    assert (await _get(connected)).json()["is_primary"] is True


@pytest.mark.parametrize("by", ["id", "email", "email in capitals"])
async def test_account_parameter_picks_the_connection_on_every_route(connected: Connected, by: str) -> None:
    journey = connected.journey
    second = await connect_account(journey, connected.person, WORK, new_account=True)
    names = {"id": second["provider_account_id"], "email": WORK, "email in capitals": WORK.upper()}
    account = names[by]

    shown = await _get(connected, account)
    patched = await _patch(connected, {"metadata": {"label": "Work"}}, account)
    refreshed = await _refresh(connected, account)
    ended = await journey.client.delete(PATH, headers=connected.headers, params={"account": account})

    for response in (shown, patched, refreshed, ended):
        assert response.status_code == 200, response.text
        assert response.json()["id"] == second["id"]
    assert refreshed.json()["last_refresh_at"] is not None
    first = (await _get(connected)).json()
    assert (first["id"], first["metadata"], first["last_refresh_at"]) == (connected.integration_id, {}, None)


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("PATCH", ""), ("PUT", "/refresh"), ("DELETE", "")])
async def test_account_that_is_not_connected_is_said_so_with_the_way_to_connect(
    connected: Connected, method: str, suffix: str
) -> None:
    body = {"metadata": {"label": "x"}} if method == "PATCH" else None
    request = connected.journey.client.build_request(
        method, f"{PATH}{suffix}", headers=connected.headers, json=body, params={"account": "nobody@example.com"}
    )

    response = await connected.journey.client.send(request)

    assert assert_problem(response, 404, "not_connected")["reconnect_url"].startswith(f"{CONNECT_PAGE}{PROVIDER}")


async def test_disconnected_connection_is_not_shown_but_the_way_back_is(connected: Connected) -> None:
    await connected.journey.client.delete(PATH, headers=connected.headers)

    for response in (await _get(connected), await _patch(connected, {"is_primary": True}), await _refresh(connected)):
        assert assert_problem(response, 404, "not_connected")["reconnect_url"].startswith(f"{CONNECT_PAGE}{PROVIDER}")


async def test_last_use_is_the_last_token_that_was_handed_out(connected: Connected) -> None:
    before = (await _get(connected)).json()["last_used_at"]
    await connected.get(scopes=["mail.read"])
    refused = (await _get(connected)).json()["last_used_at"]

    await connected.get()

    read_at = await connected.journey.owner.fetchval("SELECT read_at FROM token_reads WHERE outcome = 'granted'")
    shown = (await _get(connected)).json()["last_used_at"]
    assert before is refused is None
    assert shown.rstrip("Z")[:23] == read_at.isoformat()[:23]


async def test_refresh_on_demand_asks_once_and_not_again_within_ten_seconds(connected: Connected) -> None:
    old = (await connected.get()).json()["access_token"]

    first = await _refresh(connected)
    second = await _refresh(connected)
    calls_within = connected.calls()
    await connected.journey.owner.execute("UPDATE integrations SET last_refresh_at = now() - interval '11 seconds'")
    third = await _refresh(connected)

    assert {response.status_code for response in (first, second, third)} == {200}
    assert first.json()["last_refresh_at"] == second.json()["last_refresh_at"]
    assert (calls_within, connected.calls()) == (1, 2)
    assert (await connected.get()).json()["access_token"] != old


async def test_fifty_refreshes_on_demand_at_once_ask_once(connected: Connected) -> None:
    connected.fail("delay", delay_seconds=0.1)

    responses = await asyncio.gather(*(_refresh(connected) for _ in range(50)))

    assert {response.status_code for response in responses} == {200}
    assert connected.calls() == 1


@pytest.mark.parametrize(("status", "reason"), [("needs_reauth", "grant_refused"), ("revoked", "revoked_at_provider")])
async def test_refresh_of_a_dead_connection_says_why_and_where_to_go(
    connected: Connected, status: str, reason: str
) -> None:
    await connected.set("status", status)
    await connected.set("status_reason", reason)

    body = assert_problem(await _refresh(connected), 409, status)

    assert body["reason"] == reason
    assert body["reconnect_url"].startswith(f"{CONNECT_PAGE}{PROVIDER}")
    assert connected.calls() == 0


async def test_refresh_that_the_provider_refuses_says_why_and_where_to_go(connected: Connected) -> None:
    connected.fail("error", error="invalid_grant")

    body = assert_problem(await _refresh(connected), 409, "needs_reauth")

    assert body["reason"] == "grant_refused"
    assert body["reconnect_url"].startswith(f"{CONNECT_PAGE}{PROVIDER}")


async def test_refresh_while_the_provider_is_down_is_unavailable_for_as_long_as_it_said(connected: Connected) -> None:
    connected.fail("status", status=503, headers={"Retry-After": "7"})

    down = await _refresh(connected)
    still = await _refresh(connected)

    assert_problem(down, 503, "provider_unavailable")
    assert_problem(still, 503, "provider_unavailable")
    assert down.headers["retry-after"] == "8"  # a little later than the provider asked for
    assert connected.calls() == 1
    assert (await connected.row())["status"] == "active"


async def test_refresh_that_refuses_our_client_is_the_operators_to_mend(connected: Connected) -> None:
    connected.fail("error", error="invalid_client")

    response = await _refresh(connected)

    assert_problem(response, 502, "provider_misconfigured")
    assert (await connected.row())["status"] == "active"


@pytest.mark.parametrize("runs_out", [True, False])
async def test_refresh_without_a_refresh_token_needs_the_user(connected: Connected, *, runs_out: bool) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    if not runs_out:
        await connected.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")

    body = assert_problem(await _refresh(connected), 409, "needs_reauth")

    assert body["reason"] == "no_refresh_token"
    assert body["reconnect_url"].startswith(f"{CONNECT_PAGE}{PROVIDER}")
    assert connected.calls() == 0
    assert (await connected.get()).status_code == 200


async def test_reconnect_of_the_first_account_keeps_its_row_beside_the_second(connected: Connected) -> None:
    journey = connected.journey
    second = await connect_account(journey, connected.person, WORK, new_account=True)
    await _patch(connected, {"metadata": {"label": "Private"}})

    again = await connect_account(journey, connected.person, connected.person.email)

    listed = (await journey.client.get("/users/me/integrations", headers=connected.headers)).json()["items"]
    assert again["id"] == connected.integration_id
    assert (again["metadata"], again["is_primary"]) == ({"label": "Private"}, True)
    assert [item["id"] for item in listed] == [connected.integration_id, second["id"]]


async def test_ten_flows_of_one_account_at_once_make_one_connection_that_works(journey: Journey) -> None:
    ada = await journey.sign_up()
    tickets = [await returned_flow(journey, ada) for _ in range(10)]

    responses = await asyncio.gather(*(journey.confirm(ada, PROVIDER, flow=ticket) for ticket in tickets))

    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["id"] for response in responses}) == 1
    row = await only_row(journey, "SELECT token_version, is_primary FROM integrations")
    assert (row["token_version"], row["is_primary"]) == (10, True)
    assert await journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 2
    token = await journey.get_token(await journey.service_key(), ada.id)
    assert (await journey.userinfo(token.json()["access_token"])).status_code == 200
    refreshed = await journey.client.put(f"{PATH}/refresh", headers=ada.headers)
    assert refreshed.status_code == 200, refreshed.text


async def test_two_accounts_confirmed_at_once_have_one_primary(journey: Journey) -> None:
    ada = await journey.sign_up()
    tickets = [await returned_flow(journey, ada, f"account-{number}@example.com") for number in range(10)]

    responses = await asyncio.gather(*(journey.confirm(ada, PROVIDER, flow=ticket) for ticket in tickets))

    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["id"] for response in responses}) == 10
    assert len(await journey.owner.fetchval(PRIMARIES)) == 1


async def _blocked_or_done(journey: Journey, task: "asyncio.Task[Any]") -> None:
    """Wait until any transaction in Postgres waits for a lock, or the task is done. Raises TimeoutError after ten
    seconds."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    async with asyncio.timeout(10):
        for pause in itertools.repeat(0.01):
            if task.done() or await journey.owner.fetchval(waiting):
                return
            await asyncio.sleep(pause)


async def test_disconnect_while_another_account_is_connected_leaves_a_primary(connected: Connected) -> None:
    journey = connected.journey
    consent = Consent(f"acct-{uuid7()}", WORK, ("email",), ("email",), clock_skew_seconds=None)
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        assert await integration_queries.lock_active_user(uow.connection, connected.user_id)
        await integration_queries.connect(uow.connection, user_id=connected.user_id, provider=PROVIDER, consent=consent)
        request = journey.client.delete(PATH, headers=connected.headers)
        task = asyncio.create_task(request, context=Context())
        await _blocked_or_done(journey, task)

    ended = await task

    assert ended.status_code == 200, ended.text
    assert await journey.owner.fetchval(PRIMARIES) == [consent.account_id]


@pytest.mark.parametrize("account", ["\x00", "a\x00b", "line\nbreak", "\u202eevil", "", " ", "x" * 321])
async def test_account_parameter_that_is_no_line_of_text_is_refused_on_every_route(
    connected: Connected, account: str
) -> None:
    shown = await _get(connected, account)
    patched = await _patch(connected, {"is_primary": True}, account)
    refreshed = await _refresh(connected, account)
    ended = await connected.journey.client.delete(PATH, headers=connected.headers, params={"account": account})

    for response in (shown, patched, refreshed, ended):
        assert_problem(response, 422, "validation_failed")


async def test_connection_that_the_client_holds_is_not_sent_again(connected: Connected) -> None:
    client, url = connected.journey.client, "/users/me/integrations/sandbox-static"
    first = await client.get(url, headers=connected.headers)

    again = await client.get(url, headers={**connected.headers, "If-None-Match": first.headers["etag"]})
    await connected.get()
    after_a_read = await client.get(url, headers={**connected.headers, "If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert after_a_read.status_code == 200
    assert after_a_read.json()["last_used_at"] is not None


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_connection_that_has_changed_refuses_an_edit_of_the_former_one(connected: Connected, method: str) -> None:
    client, url = connected.journey.client, "/users/me/integrations/sandbox-static"
    seen = (await client.get(url, headers=connected.headers)).headers["etag"]
    edit = {"metadata": {"label": "Work"}}
    changed = await client.patch(url, headers={**connected.headers, "If-Match": seen}, json=edit)
    body = None if method == "DELETE" else {"metadata": {"label": "Home"}}

    late = await client.request(method, url, headers={**connected.headers, "If-Match": seen}, json=body)
    good = await client.request(
        method, url, headers={**connected.headers, "If-Match": changed.headers["etag"]}, json=body
    )

    assert_problem(late, 412, "precondition_failed")
    assert good.status_code == 200, good.text


async def test_connection_that_dies_while_it_is_made_anew_loses_its_dead_refresh_token(connected: Connected) -> None:
    journey = connected.journey
    ticket = await returned_flow(journey, connected.person)
    connected.fail("no_refresh_token", "token.exchange")

    async with journey.owner.transaction():
        await connected.set("status", "needs_reauth")
        confirmation = asyncio.create_task(journey.confirm(connected.person, PROVIDER, flow=ticket))
        await _blocked_or_done(journey, confirmation)
    response = await confirmation

    assert (response.status_code, response.json()["status"]) == (201, "degraded"), response.text
    assert response.json()["has_refresh_token"] is False
