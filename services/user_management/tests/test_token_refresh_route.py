"""Tests of `POST /internal/tokens/refresh`: a newer token for a service whose provider has just refused the one it
has."""

import asyncio
from typing import Any

import httpx
import pytest

from services.user_management.tests.integration_scenes import PROVIDER
from services.user_management.tests.scenes import Connected, assert_problem, read_outcomes


async def _refresh(scene: Connected, **body: Any) -> httpx.Response:
    document = {"user_id": scene.user_id, "provider": PROVIDER, **body}
    return await scene.journey.client.post("/internal/tokens/refresh", headers=scene.key, json=document)


async def _grow_old(scene: Connected, *, seconds: int = 11) -> None:
    """Set the time of issue of all tokens to `seconds` ago; their expiry stays."""
    statement = "UPDATE encrypted_tokens SET issued_at = now() - make_interval(secs => $1)"
    await scene.journey.owner.execute(statement, float(seconds))


async def test_refresh_replaces_a_token_that_has_life_left(connected: Connected) -> None:
    old = (await connected.get()).json()["access_token"]
    await _grow_old(connected)

    response = await _refresh(connected)

    assert response.status_code == 200, response.text
    assert response.json()["refreshed"] is True
    assert response.json()["access_token"] != old
    assert connected.calls() == 1
    assert await read_outcomes(connected.journey) == ["granted", "granted"]
    assert (await connected.get()).json()["access_token"] == response.json()["access_token"]


async def test_refresh_of_a_token_that_was_just_issued_asks_nobody(connected: Connected) -> None:
    first = await _refresh(connected)
    await _grow_old(connected)
    second = await _refresh(connected)
    third = await _refresh(connected)

    assert [answer.json()["refreshed"] for answer in (first, second, third)] == [False, True, False]
    assert second.json()["access_token"] == third.json()["access_token"] != first.json()["access_token"]
    assert connected.calls() == 1


async def test_fifty_refreshes_at_once_are_one_call(connected: Connected) -> None:
    await _grow_old(connected)
    connected.fail("delay", delay_seconds=0.1)

    responses = await asyncio.gather(*(_refresh(connected) for _ in range(50)))

    assert {response.status_code for response in responses} == {200}
    assert len({response.json()["access_token"] for response in responses}) == 1
    assert connected.calls() == 1


async def test_refresh_while_the_provider_is_down_is_unavailable_although_a_token_is_there(
    connected: Connected,
) -> None:
    await _grow_old(connected)
    connected.fail("status", status=503, headers={"Retry-After": "11"})

    response = await _refresh(connected)

    assert_problem(response, 503, "provider_unavailable")
    assert response.headers["retry-after"] in {"12", "13"}  # a little after its wish
    assert (await connected.get()).status_code == 200
    assert await read_outcomes(connected.journey) == ["granted"]


async def test_refresh_that_refuses_our_client_is_the_operators(connected: Connected) -> None:
    await _grow_old(connected)
    connected.fail("error", error="invalid_client")

    assert_problem(await _refresh(connected), 502, "provider_misconfigured")


async def test_refresh_that_is_refused_needs_the_user(connected: Connected) -> None:
    await _grow_old(connected)
    connected.fail("error", error="invalid_grant")

    body = assert_problem(await _refresh(connected), 409, "needs_reauth")

    assert body["reason"] == "grant_refused"
    assert body["reconnect_url"].startswith("http://localhost:3000/connect/")
    assert await read_outcomes(connected.journey) == ["needs_reauth"]


@pytest.mark.parametrize("seconds_left", [None, 3000.0, 120.0])
async def test_refresh_without_a_refresh_token_hands_out_the_same_token(
    connected: Connected, seconds_left: float | None
) -> None:
    old = (await connected.get()).json()["access_token"]
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    if seconds_left is None:
        await connected.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")
        await _grow_old(connected)
    else:
        await connected.journey.age_tokens(seconds_left=seconds_left)

    responses = [await _refresh(connected), await _refresh(connected)]

    for response in responses:
        assert response.status_code == 200, response.text
        assert (response.json()["access_token"], response.json()["refreshed"]) == (old, False)
    assert connected.calls() == 0


async def test_refresh_asks_the_same_door(connected: Connected) -> None:
    await _grow_old(connected)

    scope = await _refresh(connected, scopes=["mail.read"])
    account = await _refresh(connected, account="nobody@example.com")
    provider = await _refresh(connected, provider="sandbox-strict")
    person = await _refresh(connected, user_id="user_nobody")

    assert_problem(scope, 403, "insufficient_scope")
    assert_problem(account, 404, "not_connected")
    assert_problem(provider, 403, "grant_denied")
    assert_problem(person, 404, "user_not_found")
    assert connected.calls() == 0
