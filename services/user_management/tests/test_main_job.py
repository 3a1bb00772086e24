"""Tests of the main job, from a sign-up at Clerk to a token in a sibling service's hands; of who can see the token read
afterwards; and of attackers who want a victim's consent."""

from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from services.devstack.main_job import flow_ticket
from services.user_management.tests.journey import Journey

Owner = asyncpg.Connection
PROVIDER = "sandbox-static"


async def test_token_after_connecting_works_at_the_provider(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    key = await journey.service_key()

    response = await journey.get_token(key, ada.id, scopes=["calendar.read"])

    assert response.status_code == 200, response.text
    token = response.json()
    assert token["token_type"] == "Bearer"
    assert token["scopes"] == ["calendar.read", "email", "offline_access", "openid"]
    assert 3500 < token["expires_in"] <= 3600
    assert token["refreshed"] is False
    assert (await journey.userinfo(token["access_token"])).json()["email"] == "ada@example.com"


async def test_token_after_expiry_is_refreshed_once(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    key = await journey.service_key()
    await journey.age_tokens()

    first = await journey.get_token(key, ada.id)
    second = await journey.get_token(key, ada.id)

    assert first.status_code == second.status_code == 200, first.text
    assert first.json()["refreshed"] is True
    assert second.json()["refreshed"] is False
    assert first.json()["access_token"] == second.json()["access_token"]
    assert journey.sandbox.ledger.count(party="oidc:static", operation="token.refresh") == 1
    assert (await journey.userinfo(first.json()["access_token"])).status_code == 200


async def test_activity_after_a_read_tells_who_and_why(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    key = await journey.service_key()
    await journey.get_token(key, ada.id, scopes=["calendar.read"], reason="nightly sync")

    response = await journey.client.get("/users/me/integrations/sandbox-static/activity", headers=ada.headers)

    (entry,) = response.json()["items"]
    assert entry["service"] == "calendar-sync"
    assert entry["reason"] == "nightly sync"
    assert entry["outcome"] == "granted"
    assert entry["scopes"] == ["calendar.read"]


async def test_attackers_link_completed_by_a_victim_connects_nothing(journey: Journey, owner: Owner) -> None:
    mallory = await journey.sign_up("mallory@example.com")
    victim = await journey.sign_up("victim@example.com")
    started = await journey.authorize(mallory)

    location = await journey.consent(started["authorization_url"], account="victim@example.com")
    returned = await journey.callback(location)
    query = parse_qs(urlsplit(location).query)
    by_ticket = await journey.confirm(victim, PROVIDER, flow=flow_ticket(returned))
    by_code = await journey.confirm(victim, PROVIDER, code=query["code"][0], state=query["state"][0])

    assert returned.status_code == 303
    assert by_ticket.status_code == by_code.status_code == 404
    assert by_ticket.json()["type"] == by_code.json()["type"] == "flow_not_found"
    assert await owner.fetchval("SELECT count(*) FROM integrations") == 0
    assert journey.sandbox.ledger.count(party="oidc:static", operation="token.exchange") == 0


@pytest.mark.parametrize("proof", ["", ".", "." + "A" * 43], ids=["none", "empty", "guessed"])
async def test_attacker_cannot_confirm_what_a_victim_consented_to(journey: Journey, owner: Owner, proof: str) -> None:
    mallory = await journey.sign_up("mallory@example.com")
    started = await journey.authorize(mallory)
    await journey.callback(await journey.consent(started["authorization_url"], account="victim@example.com"))

    response = await journey.confirm(mallory, PROVIDER, flow=started["flow_id"] + proof)

    assert response.status_code in (404, 422)
    assert await owner.fetchval("SELECT count(*) FROM integrations") == 0
    assert journey.sandbox.ledger.count(party="oidc:static", operation="token.exchange") == 0


async def test_ticket_of_another_flow_does_not_confirm_a_victims_consent(journey: Journey, owner: Owner) -> None:
    mallory = await journey.sign_up("mallory@example.com")
    lure, own = await journey.authorize(mallory), await journey.authorize(mallory)
    await journey.callback(await journey.consent(lure["authorization_url"], account="victim@example.com"))
    returned = await journey.callback(await journey.consent(own["authorization_url"], account=mallory.email))

    forged = f"{lure['flow_id']}.{flow_ticket(returned).partition('.')[2]}"
    response = await journey.confirm(mallory, PROVIDER, flow=forged)

    assert response.status_code == 404
    assert await owner.fetchval("SELECT count(*) FROM integrations") == 0


async def test_tokens_at_rest_are_not_readable(journey: Journey, owner: Owner) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    key = await journey.service_key()
    token = (await journey.get_token(key, ada.id)).json()["access_token"]

    rows = await owner.fetch("SELECT kind, ciphertext, key_version FROM encrypted_tokens ORDER BY kind")

    assert [row["kind"] for row in rows] == ["access", "refresh"]
    assert all(token.encode() not in row["ciphertext"] and b"sbx-" not in row["ciphertext"] for row in rows)
