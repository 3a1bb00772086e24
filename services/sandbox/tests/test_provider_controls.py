"""Revocation at a plain provider of the sandbox, and the controls by which tests change a provider from outside."""

import time

import httpx
import jwt
import pytest

from services.sandbox.ledger import fingerprint
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import CREDENTIALS, connect, refresh, userinfo


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
async def test_revoke_kills_the_grant_and_is_idempotent(client: httpx.AsyncClient, which: str) -> None:
    tokens = await connect(client)

    answers = [
        await client.post("/oidc/strict/revoke", data={"token": tokens[which]}, auth=CREDENTIALS) for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert (await refresh(client, tokens["refresh_token"])).status_code == 400
    assert (await userinfo(client, tokens["access_token"])).status_code == 401


async def test_revoke_of_unknown_token_is_200_and_without_client_401(client: httpx.AsyncClient) -> None:
    unknown = await client.post("/oidc/strict/revoke", data={"token": "sbx-rt-x"}, auth=CREDENTIALS)
    anonymous = await client.post("/oidc/strict/revoke", data={"token": "sbx-rt-x"})

    assert (unknown.status_code, anonymous.status_code) == (200, 401)


async def test_control_expire_of_one_account_spares_the_others(client: httpx.AsyncClient) -> None:
    ada = await connect(client, account="ada@example.com")
    grace = await connect(client, account="grace@example.com")

    answer = await client.post("/oidc/strict/_control/expire", json={"account": "ada@example.com"})

    assert answer.json() == {"expired": 1}
    assert (await userinfo(client, ada["access_token"])).status_code == 401
    assert (await userinfo(client, grace["access_token"])).status_code == 200
    assert (await refresh(client, ada["refresh_token"])).status_code == 200


async def test_control_expire_without_body_expires_all(client: httpx.AsyncClient) -> None:
    tokens = await connect(client)

    await client.post("/oidc/strict/_control/expire")

    assert (await userinfo(client, tokens["access_token"])).status_code == 401


async def test_control_revoke_ends_the_consent(client: httpx.AsyncClient) -> None:
    tokens = await connect(client)

    answer = await client.post("/oidc/strict/_control/revoke", json={"account": "ada@example.com"})

    assert answer.json() == {"revoked": 1}
    assert (await refresh(client, tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_control_settings_shorten_the_access_token(client: httpx.AsyncClient) -> None:
    await client.post("/oidc/strict/_control/settings", json={"access_token_lifetime_seconds": 120})

    assert (await connect(client))["expires_in"] == 120
    assert (await client.get("/oidc/strict/_control/settings")).json()["grace_seconds"] == 60


async def test_control_settings_unknown_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/oidc/strict/_control/settings", json={"colour": "red"})

    assert response.status_code == 422


async def test_control_clock_offset_shows_in_the_id_token_only(client: httpx.AsyncClient) -> None:
    await client.post("/oidc/strict/_control/clock-offset", json={"seconds": 600})

    tokens = await connect(client)

    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert 590 < claims["iat"] - time.time() < 610
    assert (tokens["expires_in"], (await userinfo(client, tokens["access_token"])).status_code) == (3600, 200)


async def test_control_grants_issues_and_lists_them(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    wanted = {"account": "grace@example.com", "scopes": ["openid", "offline_access"]}
    tokens = (await client.post("/oidc/strict/_control/grants", json=wanted)).json()
    await refresh(client, tokens["refresh_token"])
    await refresh(client, tokens["refresh_token"])

    (grant,) = (await client.get("/oidc/strict/_control/grants")).json()["items"]

    assert (grant["alive"], grant["revoked_because"]) == (False, "refresh_token_reused")
    assert grant["refresh_tokens_issued"] == 2
    assert grant["newest_refresh_token"] != fingerprint(tokens["refresh_token"])
    assert sandbox.providers["strict"].grants("ada@example.com") == []
