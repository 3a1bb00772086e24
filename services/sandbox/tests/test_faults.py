"""Scripted faults, through the in-process transport; `test_process` tests the reset of a real connection."""

import asyncio
from typing import Any

import httpx
import pytest

from services.sandbox.faults import Fault, FaultAction
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import connect, refresh, userinfo


def _script(sandbox: Sandbox, action: FaultAction, **settings: Any) -> None:
    sandbox.faults.add(Fault(party="oidc:strict", operation="token.refresh", action=action, **settings))


@pytest.mark.parametrize(("when", "survives"), [("before", True), ("after", False)])
async def test_fault_status_before_or_after_commit_decides_whether_a_retry_works(
    sandbox: Sandbox, client: httpx.AsyncClient, *, when: str, survives: bool
) -> None:
    tokens = await connect(client)
    _script(sandbox, "status", status=500, when=when)

    failed = await refresh(client, tokens["refresh_token"])
    retry = await refresh(client, tokens["refresh_token"])

    assert failed.status_code == 500
    assert (retry.status_code == 200) is survives
    assert sandbox.ledger.entries("oidc:strict", "token.refresh")[0].committed is not survives


async def test_fault_429_carries_retry_after_and_strikes_as_often_as_told(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    tokens = await connect(client, "static")
    sandbox.faults.add(
        Fault(party="oidc:*", operation="token.*", action="status", status=429, times=2, headers={"Retry-After": "7"})
    )

    answers = [await refresh(client, tokens["refresh_token"], "static") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("error", "status"), [("invalid_grant", 400), ("invalid_client", 401), ("temporarily_unavailable", 503)]
)
async def test_fault_error_answers_the_oauth_error(
    sandbox: Sandbox, client: httpx.AsyncClient, error: str, status: int
) -> None:
    _script(sandbox, "error", error=error)

    response = await refresh(client, "sbx-rt-any")

    assert (response.status_code, response.json()["error"]) == (status, error)
    assert sandbox.ledger.entries("oidc:strict")[0].error == error


@pytest.mark.parametrize(
    ("action", "expires_in"),
    [("expires_in_missing", None), ("expires_in_negative", -3600), ("expires_in_string", "soon")],
)
async def test_fault_expires_in_spoils_only_that_member(
    sandbox: Sandbox, client: httpx.AsyncClient, action: FaultAction, expires_in: object
) -> None:
    tokens = await connect(client)
    _script(sandbox, action)

    spoiled = (await refresh(client, tokens["refresh_token"])).json()

    assert spoiled.get("expires_in") == expires_in
    assert (await refresh(client, spoiled["refresh_token"])).status_code == 200


async def test_fault_no_refresh_token_hides_the_successor(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    tokens = await connect(client)
    _script(sandbox, "no_refresh_token")

    spoiled = (await refresh(client, tokens["refresh_token"])).json()

    assert "refresh_token" not in spoiled
    assert (await userinfo(client, spoiled["access_token"])).status_code == 200


async def test_fault_truncated_json_does_not_parse(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    tokens = await connect(client)
    _script(sandbox, "truncated_json")

    response = await refresh(client, tokens["refresh_token"])

    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response.json()


async def test_fault_html_and_oversize_answer_200(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    _script(sandbox, "html")
    _script(sandbox, "oversize")

    html = await refresh(client, "sbx-rt-any")
    oversize = await refresh(client, "sbx-rt-any")

    assert (html.status_code, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (oversize.status_code, len(oversize.content) > 2_000_000) == (200, True)


@pytest.mark.parametrize(
    ("action", "failure"), [("reset", httpx.ReadError), ("reset_mid_body", httpx.RemoteProtocolError)]
)
async def test_fault_reset_in_process_raises_what_a_client_would_see(
    sandbox: Sandbox, client: httpx.AsyncClient, action: FaultAction, failure: type[Exception]
) -> None:
    tokens = await connect(client)
    _script(sandbox, action)

    with pytest.raises(failure):
        await refresh(client, tokens["refresh_token"])

    assert sandbox.ledger.entries("oidc:strict", "token.refresh")[0].state == "finished"


async def test_fault_delay_is_visible_as_started_and_ends_when_cleared(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    tokens = await connect(client)
    _script(sandbox, "delay", delay_seconds=600, when="after")

    call = asyncio.create_task(refresh(client, tokens["refresh_token"]))
    (entry,) = await sandbox.ledger.wait_for("oidc:strict", "token.refresh", state="started", committed=True)
    sandbox.faults.clear()

    assert (await call).status_code == 200
    assert entry.state == "finished"


async def test_fault_delay_before_commit_leaves_the_provider_untouched(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    tokens = await connect(client)
    _script(sandbox, "delay", delay_seconds=0.05)

    call = asyncio.create_task(refresh(client, tokens["refresh_token"]))
    (entry,) = await sandbox.ledger.wait_for("oidc:strict", "token.refresh")

    assert (entry.state, entry.committed) == ("started", False)
    assert (await call).status_code == 200


async def test_faults_over_http_are_added_listed_and_cleared(client: httpx.AsyncClient) -> None:
    fault = {"party": "clerk", "operation": "jwks", "action": "status", "status": 503}
    await client.post("/_faults", json=fault)
    await client.post("/_faults", json=fault)

    down = await client.get("/clerk/.well-known/jwks.json")
    pending = (await client.get("/_faults")).json()["items"]
    await client.delete("/_faults")
    up = await client.get("/clerk/.well-known/jwks.json")

    assert (down.status_code, len(pending), up.status_code) == (503, 1, 200)


async def test_faults_with_unknown_action_is_422(client: httpx.AsyncClient) -> None:
    assert (await client.post("/_faults", json={"party": "clerk", "action": "explode"})).status_code == 422
