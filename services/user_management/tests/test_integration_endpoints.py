"""Tests of what users see of their integrations: what they can connect, what is connected and in which state, and who
read its tokens."""

from typing import Any

import pytest

from services.sandbox.faults import Fault
from services.sandbox.providers import KINDS, SCOPES
from services.user_management.tests.integration_scenes import PROVIDER, returned_flow
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions

ACTIVITY = "/users/me/integrations/sandbox-static/activity"
MEMBERS = {
    "id",
    "provider",
    "provider_account_id",
    "account_email",
    "is_primary",
    "status",
    "status_reason",
    "status_changed_at",
    "granted_scopes",
    "missing_scopes",
    "reconnect_url",
    "expires_at",
    "has_refresh_token",
    "metadata",
    "connected_at",
    "last_refresh_at",
    "last_checked_at",
    "last_failure_at",
    "last_used_at",
}


async def test_providers_say_what_each_scope_is_for(journey: Journey) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get("/providers", headers=ada.headers)

    items = response.json()["items"]
    assert [item["name"] for item in items] == sorted(f"sandbox-{kind}" for kind in KINDS)
    assert items[0]["scopes"] == SCOPES
    assert items[0]["required_scopes"] == ["openid", "email", "offline_access"]
    assert "sbx-cs" not in response.text


async def test_connections_of_a_new_user_are_none(journey: Journey) -> None:
    ada = await journey.sign_up()

    listed = await journey.client.get("/users/me/integrations", headers=ada.headers)
    one = await journey.client.get("/users/me/integrations/sandbox-static", headers=ada.headers)
    unknown = await journey.client.get("/users/me/integrations/myspace", headers=ada.headers)

    assert listed.json() == {"items": []}
    assert_problem(one, 404, "not_connected")
    assert_problem(unknown, 404, "unknown_provider")


async def test_connection_shows_its_members_and_never_a_token(connected: Connected) -> None:
    client, headers = connected.journey.client, connected.headers

    listed = await client.get("/users/me/integrations", headers=headers)
    one = await client.get(f"/users/{connected.user_id}/integrations/sandbox-static", headers=headers)

    assert listed.json() == {"items": [one.json()]}
    assert set(one.json()) == MEMBERS
    assert (one.json()["id"], one.json()["status"], one.json()["is_primary"]) == (
        connected.integration_id,
        "active",
        True,
    )
    assert one.json()["granted_scopes"] == ["calendar.read", "email", "offline_access", "openid"]
    assert "sbx-" not in listed.text + one.text


async def test_connection_has_its_entity_tag_in_every_answer(journey: Journey) -> None:
    ada = await journey.sign_up()
    ticket = await returned_flow(journey, ada)
    path = f"/users/me/integrations/{PROVIDER}"

    async def tag() -> str:
        return (await journey.client.get(path, headers=ada.headers)).headers["etag"]

    confirmed = await journey.confirm(ada, PROVIDER, flow=ticket)
    tag_confirmed = await tag()
    await journey.owner.execute("UPDATE encrypted_tokens SET issued_at = issued_at - interval '1 minute'")
    refreshed = await journey.client.put(f"{path}/refresh", headers=ada.headers)
    tag_refreshed = await tag()

    assert (confirmed.status_code, refreshed.status_code) == (201, 200), refreshed.text
    assert confirmed.headers["etag"] == tag_confirmed
    assert refreshed.headers["etag"] == tag_refreshed != tag_confirmed


async def test_connection_that_was_disconnected_is_not_listed(connected: Connected) -> None:
    await connected.set("status", "disconnected")

    listed = await connected.journey.client.get("/users/me/integrations", headers=connected.headers)

    assert listed.json() == {"items": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/sandbox-static"),
        ("GET", "/sandbox-static/activity"),
        ("POST", "/sandbox-static"),
        ("POST", "/sandbox-static/authorize"),
    ],
)
async def test_connections_of_somebody_else_are_not_found(connected: Connected, method: str, path: str) -> None:
    mallory = await connected.journey.sign_up("mallory@example.com")
    body: dict[str, Any] | None = {} if method == "POST" else None

    response = await connected.journey.client.request(
        method, f"/users/{connected.user_id}/integrations{path}", headers=mallory.headers, json=body
    )

    assert response.status_code in ((404,) if not body else (404, 422)), response.text
    if response.status_code == 404:
        assert_problem(response, 404, "user_not_found")


async def test_account_that_connects_again_keeps_its_row_and_moves_the_fence(connected: Connected) -> None:
    first = await connected.row()
    await connected.set("status", "needs_reauth")
    await connected.set("status_reason", "grant_refused")

    again = await connected.journey.connect(connected.person, scopes=("mail.read",))

    row = await connected.row()
    assert again["id"] == connected.integration_id
    assert (again["status"], again["status_reason"], again["is_primary"]) == ("active", None, True)
    assert again["granted_scopes"] == ["calendar.read", "email", "mail.read", "offline_access", "openid"]
    assert row["token_version"] == first["token_version"] + 1
    assert await connected.journey.owner.fetchval("SELECT count(*) FROM integrations") == 1
    assert await connected.journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens") == 2


async def test_second_account_is_a_second_connection_beside_the_primary_one(connected: Connected) -> None:
    journey = connected.journey
    started = await journey.authorize(connected.person)
    await journey.callback(await journey.consent(started["authorization_url"], account="work@example.com"))
    second = (await journey.confirm(connected.person, "sandbox-static", flow=journey.ticket(started))).json()

    listed = (await journey.client.get("/users/me/integrations", headers=connected.headers)).json()["items"]
    primary = (await journey.client.get("/users/me/integrations/sandbox-static", headers=connected.headers)).json()

    assert [(item["id"], item["is_primary"]) for item in listed] == [
        (connected.integration_id, True),
        (second["id"], False),
    ]
    assert listed[1]["account_email"] == "work@example.com"
    assert primary["id"] == connected.integration_id


async def test_same_account_may_be_connected_by_two_users(connected: Connected) -> None:
    journey = connected.journey
    bob = await journey.sign_up("bob@example.com")
    started = await journey.authorize(bob)
    await journey.callback(await journey.consent(started["authorization_url"], account="ada@example.com"))

    second = (await journey.confirm(bob, "sandbox-static", flow=journey.ticket(started))).json()

    assert second["id"] != connected.integration_id
    assert second["is_primary"] is True
    assert second["provider_account_id"] == (await connected.row())["provider_account_id"]
    assert (await journey.client.get("/users/me/integrations", headers=connected.headers)).json()["items"][0][
        "id"
    ] == connected.integration_id


async def test_connection_without_a_refresh_token_is_degraded_from_the_start(journey: Journey) -> None:
    ada = await journey.sign_up()
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.exchange", action="no_refresh_token"))

    connection = await journey.connect(ada, scopes=("calendar.read",))

    assert (connection["status"], connection["status_reason"]) == ("degraded", "no_refresh_token")
    assert connection["has_refresh_token"] is False
    assert connection["reconnect_url"].startswith("http://localhost:3000/connect/sandbox-static")
    assert (await audit_actions(journey, ada.id))[-2:] == ["integration.connected", "integration.degraded"]
    key = await journey.service_key()
    assert (await journey.get_token(key, ada.id)).status_code == 200


async def test_scope_that_the_person_unticked_is_missing(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, scopes=("calendar.read",))
    url = f"{started['authorization_url']}&granted_scope=openid%20email%20offline_access"
    await journey.callback(await journey.consent(url, account=ada.email))

    connection = (await journey.confirm(ada, "sandbox-static", flow=journey.ticket(started))).json()

    assert (connection["status"], connection["missing_scopes"]) == ("active", ["calendar.read"])
    assert connection["reconnect_url"].endswith("scopes=calendar.read%20email%20offline_access%20openid")
    refused = await journey.get_token(await journey.service_key(), ada.id, scopes=("calendar.read",))
    assert_problem(refused, 403, "insufficient_scope")


async def test_required_scope_that_the_person_unticked_needs_them_again(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, scopes=("calendar.read",))
    url = f"{started['authorization_url']}&granted_scope=openid%20email%20calendar.read"
    await journey.callback(await journey.consent(url, account=ada.email))

    connection = (await journey.confirm(ada, "sandbox-static", flow=journey.ticket(started))).json()

    assert (connection["status"], connection["status_reason"]) == ("needs_reauth", "scope_missing")
    assert connection["missing_scopes"] == ["offline_access"]
    assert (await audit_actions(journey, ada.id))[-2:] == ["integration.connected", "integration.needs_reauth"]


async def test_activity_comes_in_pages_the_newest_first(connected: Connected) -> None:
    client = connected.journey.client
    for number in range(5):
        await connected.get(reason=f"read {number}")
    pages = []
    cursor: str | None = None

    for _ in range(3):
        params: dict[str, Any] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(ACTIVITY, headers=connected.headers, params=params)).json()
        pages.append([item["reason"] for item in page["items"]])
        cursor = page["next_cursor"]

    assert pages == [["read 4", "read 3"], ["read 2", "read 1"], ["read 0"]]
    assert cursor is None


async def test_activity_shows_refusals_too_and_only_ones_own(connected: Connected) -> None:
    other = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    await other.get(reason="bob")
    await connected.get(scopes=["mail.read"], reason="ada")

    response = await connected.journey.client.get(ACTIVITY, headers=connected.headers)

    (entry,) = response.json()["items"]
    assert (entry["outcome"], entry["reason"], entry["service"]) == ("insufficient_scope", "ada", "calendar-sync")
    assert set(entry) == {"id", "read_at", "service", "outcome", "scopes", "reason", "integration_id"}


async def test_activity_refuses_a_cursor_that_is_not_its_own(connected: Connected) -> None:
    client = connected.journey.client
    for _ in range(2):
        await connected.get()
    page = (await client.get(ACTIVITY, headers=connected.headers, params={"limit": 1})).json()
    good = page["next_cursor"]
    other = await connected.journey.sign_up("bob@example.com")
    tampered = [good[:-2] + ("AA" if good[-2:] != "AA" else "BB"), good[1:], good + "A", "x", "\u00e9", "=", "A" * 64]

    refused = [await client.get(ACTIVITY, headers=connected.headers, params={"cursor": cursor}) for cursor in tampered]
    of_another_user = await client.get(ACTIVITY, headers=other.headers, params={"cursor": good})
    of_another_list = await client.get(
        "/users/me/integrations/sandbox-strict/activity", headers=connected.headers, params={"cursor": good}
    )

    for response in (*refused, of_another_user, of_another_list):
        assert_problem(response, 422, "validation_failed")
    assert (await client.get(ACTIVITY, headers=connected.headers, params={"cursor": good})).status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=-1", "limit=all", f"cursor={'A' * 513}"])
async def test_activity_refuses_a_page_of_no_sensible_size(connected: Connected, query: str) -> None:
    response = await connected.journey.client.get(f"{ACTIVITY}?{query}", headers=connected.headers)

    assert_problem(response, 422, "validation_failed")
