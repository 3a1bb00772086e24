"""Tests of `/admin/users`, where administrators see and change users, and of `/internal/users/batch-get`, where
permitted services read profiles."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.user_management.schemas.user import DeletionResponse
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers, assert_problem, audit_actions, only_row

USERS = "/admin/users"
BATCH = "/internal/users/batch-get"
SHOWN_BESIDES = {
    "suspended_at",
    "suspended_reason",
    "upstream_status",
    "upstream_updated_at",
    "local_fields",
    "deleted_at",
    "deleted_by",
    "restored_at",
}


async def suspend(journey: Journey, admin: Headers, user_id: str, reason: str | None = None) -> httpx.Response:
    return await journey.client.post(f"{USERS}/{user_id}/suspend", headers=admin, json={"reason": reason})


async def post(journey: Journey, admin: Headers, user_id: str, action: str) -> httpx.Response:
    return await journey.client.post(f"{USERS}/{user_id}/{action}", headers=admin)


async def delete(journey: Journey, admin: Headers, user_id: str) -> httpx.Response:
    return await journey.client.delete(f"{USERS}/{user_id}", headers=admin)


async def detail(journey: Journey, admin: Headers, user_id: str) -> dict[str, Any]:
    response = await journey.client.get(f"{USERS}/{user_id}", headers=admin)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def listed(journey: Journey, admin: Headers, path: str = USERS, **parameters: str) -> list[str]:
    """Return the ids of the users in the list at `path`, without the administrator's own."""
    response = await journey.client.get(path, headers=admin, params=parameters)
    assert response.status_code == 200, response.text
    return [user["id"] for user in response.json()["items"] if user["id"] != ADMIN_USER_ID]


async def events_about(journey: Journey, user_id: str) -> list[tuple[str, dict[str, Any]]]:
    rows = await journey.owner.fetch(
        "SELECT event_type, payload FROM outbox_events WHERE subject = $1 ORDER BY seq", user_id
    )
    return [(row["event_type"], json.loads(row["payload"])) for row in rows]


@pytest.fixture
async def service(journey: Journey) -> Headers:
    """Headers of a service that has the permission `admin`."""
    return {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])}


async def test_list_shows_the_newest_first_with_what_admins_see(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    bob = await journey.sign_up("bob@example.com")

    response = await journey.client.get(USERS, headers=admin)

    users = response.json()["items"]
    assert [user["id"] for user in users] == [ADMIN_USER_ID, bob.id, ada.id]
    profile = (await journey.client.get("/users/me", headers=ada.headers)).json()
    assert set(users[0]) == profile.keys() | SHOWN_BESIDES
    assert response.json()["next_cursor"] is None


async def test_lists_of_the_living_and_of_the_deleted_are_disjoint(journey: Journey, admin: Headers) -> None:
    people = [await journey.sign_up(f"person{number}@example.com") for number in range(4)]
    gone = [people[2], people[0]]
    for person in gone:
        assert (await delete(journey, admin, person.id)).status_code == 200

    living = await listed(journey, admin)
    deleted = await listed(journey, admin, f"{USERS}/deleted")

    assert living == [people[3].id, people[1].id]
    assert deleted == [person.id for person in reversed(gone)]


async def test_deleted_are_paged_without_loss(journey: Journey, admin: Headers) -> None:
    for number in range(7):
        person = await journey.sign_up(f"person{number}@example.com")
        await delete(journey, admin, person.id)
    # Deleted at one moment, as after a bulk deletion: the id decides.
    await journey.owner.execute("UPDATE users SET deleted_at = date_trunc('day', now()) WHERE deleted_at IS NOT NULL")
    whole = await listed(journey, admin, f"{USERS}/deleted")

    found: list[str] = []
    parameters = {"limit": "2"}
    while True:
        page = (await journey.client.get(f"{USERS}/deleted", headers=admin, params=parameters)).json()
        found += [user["id"] for user in page["items"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]

    assert found == whole == sorted(whole, reverse=True)
    assert len(found) == 7


async def test_detail_counts_the_sign_ins_of_a_month(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    sessions = [journey.sandbox.clerk.session_event("session.created", ada.id, session_id=f"sess_{n}") for n in (1, 2)]
    old = journey.sandbox.clerk.session_event("session.created", ada.id, session_id="sess_old", created_at=1)
    for session in (*sessions, sessions[0], old):
        await journey.webhook("session.created", session)

    assert (await detail(journey, admin, ada.id))["sign_ins_last_30_days"] == 2


async def test_suspension_ends_sign_in_and_tokens_and_is_recorded(connected: Connected, admin: Headers) -> None:
    journey = connected.journey

    response = await suspend(journey, admin, connected.user_id, "abuse report 7")

    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["status"], answer["suspended_reason"]) == ("suspended", "abuse report 7")
    assert answer["suspended_at"] is not None
    assert_problem(await journey.client.get("/users/me", headers=connected.headers), 403, "user_inactive")
    assert_problem(await connected.get(), 403, "user_inactive")
    row = await only_row(journey, "SELECT actor_id, user_id FROM audit_logs WHERE action = 'user.suspended'")
    assert row == {"actor_id": ADMIN_USER_ID, "user_id": connected.user_id}
    assert ("user.suspended", {"user_id": connected.user_id}) in await events_about(journey, connected.user_id)


async def test_suspension_again_changes_nothing(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    first = await suspend(journey, admin, ada.id, "first reason")

    second = await suspend(journey, admin, ada.id, "second reason")

    assert second.json() == first.json()
    assert (await audit_actions(journey, ada.id)).count("user.suspended") == 1


async def test_unsuspension_lets_the_user_in_again(connected: Connected, admin: Headers) -> None:
    journey = connected.journey
    await suspend(journey, admin, connected.user_id, "a mistake")

    response = await post(journey, admin, connected.user_id, "unsuspend")

    answer = response.json()
    assert (answer["status"], answer["suspended_at"], answer["suspended_reason"]) == ("active", None, None)
    assert (await journey.client.get("/users/me", headers=connected.headers)).status_code == 200
    assert (await connected.get()).status_code == 200
    assert (await audit_actions(journey, connected.user_id)).count("user.updated") == 1


async def test_unsuspension_of_a_user_who_is_not_suspended_changes_nothing(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    before = await audit_actions(journey, ada.id)

    response = await post(journey, admin, ada.id, "unsuspend")

    assert (response.status_code, response.json()["status"]) == (200, "active")
    assert await audit_actions(journey, ada.id) == before


async def test_unsuspension_of_whom_upstream_has_banned_is_a_conflict(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    await journey.webhook("user.updated", journey.sandbox.clerk.ban_user(ada.id))

    response = await post(journey, admin, ada.id, "unsuspend")

    assert_problem(response, 409, "conflict")
    assert (await detail(journey, admin, ada.id))["status"] == "suspended"


async def test_our_suspension_outlives_upstreams_lifted_ban(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    await suspend(journey, admin, ada.id)
    await journey.webhook("user.updated", journey.sandbox.clerk.ban_user(ada.id))

    await journey.webhook("user.updated", journey.sandbox.clerk.unban_user(ada.id))

    answer = await detail(journey, admin, ada.id)
    assert (answer["status"], answer["upstream_status"]) == ("suspended", "active")


async def test_deletion_can_be_undone_within_the_hold_back(connected: Connected, admin: Headers) -> None:
    journey = connected.journey
    await delete(journey, admin, connected.user_id)
    deleted = await detail(journey, admin, connected.user_id)

    response = await post(journey, admin, connected.user_id, "restore")

    assert (deleted["status"], deleted["deleted_by"]) == ("deactivated", "admin")
    answer = response.json()
    assert (answer["status"], answer["deleted_at"], answer["deleted_by"]) == ("active", None, None)
    assert answer["restored_at"] is not None
    assert (await journey.client.get("/users/me", headers=connected.headers)).status_code == 200
    assert (await connected.get()).status_code == 200
    assert (await audit_actions(journey, connected.user_id))[-2:] == ["user.deleted", "user.restored"]
    told = [name for name, _ in await events_about(journey, connected.user_id)]
    assert told[-2:] == ["user.deleted", "user.restored"]


async def test_restored_user_who_was_suspended_stays_suspended(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    await suspend(journey, admin, ada.id)
    await delete(journey, admin, ada.id)

    response = await post(journey, admin, ada.id, "restore")

    assert response.json()["status"] == "suspended"


async def test_restoration_after_the_hold_back_is_a_conflict(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    await delete(journey, admin, ada.id)
    days = journey.container.resources.settings.erasure.after_days
    await journey.owner.execute("UPDATE users SET deleted_at = now() - make_interval(days => $1)", days)
    journey.container.users.states.forget()

    # The statement above has deleted the admin too, so a service asks.
    key = await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])
    response = await post(journey, {"X-API-Key": key}, ada.id, "restore")

    assert_problem(response, 409, "conflict")


async def test_restoration_of_a_living_user_is_a_conflict(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()

    assert_problem(await post(journey, admin, ada.id, "restore"), 409, "conflict")


@pytest.mark.parametrize("action", ["suspend", "unsuspend"])
async def test_deleted_user_can_only_be_restored(journey: Journey, admin: Headers, action: str) -> None:
    ada = await journey.sign_up()
    await delete(journey, admin, ada.id)

    response = await journey.client.post(f"{USERS}/{ada.id}/{action}", headers=admin, json={})

    assert_problem(response, 404, "user_not_found")


async def test_deletion_is_confirmed_with_the_end_of_the_hold_back_and_repeated_without_effect(
    journey: Journey, admin: Headers
) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada, "sandbox-static")

    first, second = await delete(journey, admin, ada.id), await delete(journey, admin, ada.id)

    assert (first.status_code, second.status_code, second.json()) == (200, 200, first.json())
    confirmed = DeletionResponse.model_validate_json(first.content)
    assert confirmed.deleted_at == await journey.owner.fetchval("SELECT deleted_at FROM users WHERE id = $1", ada.id)
    assert confirmed.restorable_until - confirmed.deleted_at == timedelta(days=30)
    # The integration and its consent are kept for a restoration.
    assert confirmed.ended.integrations == []
    assert (await audit_actions(journey, ada.id)).count("user.deleted") == 1


@pytest.mark.parametrize("method_and_path", ["GET ", "POST /suspend", "POST /unsuspend", "POST /restore", "DELETE "])
async def test_unknown_user_is_not_found(journey: Journey, admin: Headers, method_and_path: str) -> None:
    method, path = method_and_path.split(" ")

    response = await journey.client.request(method, f"{USERS}/user_nobody{path}", headers=admin, json={})

    assert_problem(response, 404, "user_not_found")


@pytest.mark.parametrize("user_id", ["%00", "user_%00", "%F0%9F%98%80", "u" * 65, "a%20b"])
async def test_id_that_nobody_can_have_is_refused(journey: Journey, admin: Headers, user_id: str) -> None:
    response = await journey.client.get(f"{USERS}/{user_id}", headers=admin)

    assert_problem(response, 422, "validation_failed")


async def test_suspensions_and_deletions_at_once_end_in_one_state(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    await listed(journey, admin)

    answers = await asyncio.gather(
        *(suspend(journey, admin, ada.id) for _ in range(10)), *(delete(journey, admin, ada.id) for _ in range(10))
    )

    assert {answer.status_code for answer in answers} <= {200, 404}
    actions = await audit_actions(journey, ada.id)
    assert actions.count("user.deleted") == 1
    assert actions.count("user.suspended") <= 1
    assert (await detail(journey, admin, ada.id))["status"] == "deactivated"


async def test_service_with_the_permission_administers_and_is_audited_by_name(
    journey: Journey, service: Headers
) -> None:
    ada = await journey.sign_up()

    assert (await suspend(journey, service, ada.id)).status_code == 200

    row = await only_row(journey, "SELECT actor_kind, actor_id FROM audit_logs WHERE action = 'user.suspended'")
    assert row == {"actor_kind": "service", "actor_id": "operations"}


@pytest.mark.parametrize("path", ["", "/deleted", "/user_nobody"])
async def test_user_who_is_no_admin_is_forbidden(journey: Journey, path: str) -> None:
    ada = await journey.sign_up()

    assert_problem(await journey.client.get(f"{USERS}{path}", headers=ada.headers), 403, "forbidden")


async def test_impersonated_admin_is_forbidden(journey: Journey) -> None:
    headers = journey.headers_of(ADMIN_USER_ID, act={"sub": "user_support"})

    assert_problem(await journey.client.get(USERS, headers=headers), 403, "forbidden")


# Profiles for services


@pytest.fixture
async def reader(journey: Journey) -> Headers:
    """Headers of a service that may read profiles."""
    return {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "reader", ["users:read"])}


async def batch(journey: Journey, reader: Headers, user_ids: object) -> httpx.Response:
    return await journey.client.post(BATCH, headers=reader, json={"user_ids": user_ids})


async def test_batch_keeps_the_order_and_names_each_user_once(journey: Journey, reader: Headers) -> None:
    ada, bob, eve = [await journey.sign_up(f"{name}@example.com") for name in ("ada", "bob", "eve")]
    await journey.webhook("user.deleted", journey.sandbox.clerk.delete_user(eve.id))

    asked = [bob.id, "user_nobody", ada.id, bob.id, eve.id, "user_nobody", "not-even-an-id"]
    response = await batch(journey, reader, asked)

    answer = response.json()
    assert [user["id"] for user in answer["users"]] == [bob.id, ada.id]
    assert answer["missing"] == ["user_nobody", eve.id, "not-even-an-id"]
    assert answer["users"][1] == (await journey.client.get("/users/me", headers=ada.headers)).json() | {
        "last_active_at": None
    }


async def test_batch_shows_suspended_users_with_their_status(journey: Journey, admin: Headers, reader: Headers) -> None:
    ada = await journey.sign_up()
    await suspend(journey, admin, ada.id)

    answer = (await batch(journey, reader, [ada.id])).json()

    assert [user["status"] for user in answer["users"]] == ["suspended"]


async def test_batch_of_a_hundred_is_answered_and_of_more_refused(journey: Journey, reader: Headers) -> None:
    hundred = [f"user_{number}" for number in range(100)]

    answered = await batch(journey, reader, hundred)
    refused = await batch(journey, reader, [*hundred, "user_100"])

    assert answered.json() == {"users": [], "missing": hundred}
    assert_problem(refused, 422, "validation_failed")


@pytest.mark.parametrize("user_ids", [[], None, "user_1", {}, [1], [None], [""], ["\x00"], ["u" * 65], ["\u00e9"]])
async def test_batch_of_no_ids_or_no_list_is_refused(journey: Journey, reader: Headers, user_ids: object) -> None:
    assert_problem(await batch(journey, reader, user_ids), 422, "validation_failed")


async def test_batch_is_for_services_with_the_permission(journey: Journey, admin: Headers, service: Headers) -> None:
    other = {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "other", ["users:search"])}

    assert (await batch(journey, service, ["user_1"])).status_code == 200
    assert_problem(await batch(journey, other, ["user_1"]), 403, "forbidden")
    assert_problem(await batch(journey, admin, ["user_1"]), 401, "unauthenticated")
