"""Refreshing at the sandbox's plain providers, one for each refresh kind (what becomes of a refresh token that was
used)."""

import asyncio

import httpx
import pytest

from services.sandbox.providers import KINDS
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import connect, refresh, userinfo


async def test_refresh_static_repeats_no_refresh_token_and_keeps_the_old(client: httpx.AsyncClient) -> None:
    first = await connect(client, "static")

    answers = [await refresh(client, first["refresh_token"], "static") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all("refresh_token" not in answer.json() for answer in answers)


async def test_refresh_overlap_gives_a_new_token_and_keeps_every_old_one(client: httpx.AsyncClient) -> None:
    first = await connect(client, "overlap")

    second = (await refresh(client, first["refresh_token"], "overlap")).json()
    again = (await refresh(client, first["refresh_token"], "overlap")).json()

    assert len({first["refresh_token"], second["refresh_token"], again["refresh_token"]}) == 3
    assert (await refresh(client, second["refresh_token"], "overlap")).status_code == 200


async def test_refresh_grace_replays_the_same_successor(client: httpx.AsyncClient) -> None:
    first = await connect(client, "grace")

    second = (await refresh(client, first["refresh_token"], "grace")).json()
    replayed = (await refresh(client, first["refresh_token"], "grace")).json()

    assert second["refresh_token"] == replayed["refresh_token"] != first["refresh_token"]
    assert (await userinfo(client, replayed["access_token"], "grace")).status_code == 200


async def test_refresh_grace_after_the_grace_period_revokes_the_family(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    sandbox.providers["grace"].settings.grace_seconds = 0
    first = await connect(client, "grace")
    second = (await refresh(client, first["refresh_token"], "grace")).json()

    late = await refresh(client, first["refresh_token"], "grace")

    assert (late.status_code, late.json()["error"]) == (400, "invalid_grant")
    assert (await refresh(client, second["refresh_token"], "grace")).status_code == 400


async def test_refresh_strict_rotates(client: httpx.AsyncClient) -> None:
    first = await connect(client)

    second = (await refresh(client, first["refresh_token"])).json()
    third = await refresh(client, second["refresh_token"])

    assert second["refresh_token"] != first["refresh_token"]
    assert third.status_code == 200


async def test_refresh_strict_reuse_revokes_the_family(client: httpx.AsyncClient) -> None:
    first = await connect(client)
    second = (await refresh(client, first["refresh_token"])).json()

    reuse = await refresh(client, first["refresh_token"])

    assert (reuse.status_code, reuse.json()["error"]) == (400, "invalid_grant")
    newest = await refresh(client, second["refresh_token"])
    assert (newest.status_code, newest.json()["error"]) == (400, "invalid_grant")
    assert (await userinfo(client, second["access_token"])).status_code == 401


async def test_refresh_strict_five_at_once_gives_one_success_and_a_dead_family(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    sandbox.providers["strict"].settings.delay_seconds = 0.02
    first = await connect(client)

    answers = await asyncio.gather(*(refresh(client, first["refresh_token"]) for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    assert (await refresh(client, winner["refresh_token"])).status_code == 400
    assert (await userinfo(client, winner["access_token"])).status_code == 401


@pytest.mark.parametrize("kind", KINDS)
async def test_refresh_with_narrower_scope_narrows_only_the_access_token(client: httpx.AsyncClient, kind: str) -> None:
    first = await connect(client, kind)

    narrow = (await refresh(client, first["refresh_token"], kind, scope="openid email")).json()
    newest = narrow.get("refresh_token", first["refresh_token"])

    assert narrow["scope"] == "openid email"
    assert (await refresh(client, newest, kind)).json()["scope"] == first["scope"]


async def test_refresh_with_wider_scope_is_refused_and_uses_nothing_up(client: httpx.AsyncClient) -> None:
    first = await connect(client)

    wider = await refresh(client, first["refresh_token"], scope="openid mail.read")

    assert (wider.status_code, wider.json()["error"]) == (400, "invalid_scope")
    assert (await refresh(client, first["refresh_token"])).status_code == 200


async def test_refresh_at_another_kind_is_invalid_grant(client: httpx.AsyncClient) -> None:
    first = await connect(client, "strict")

    assert (await refresh(client, first["refresh_token"], "overlap")).json()["error"] == "invalid_grant"
