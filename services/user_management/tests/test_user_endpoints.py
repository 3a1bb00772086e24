"""Tests of `/users/{user_id}`: users see, edit and delete themselves and nobody else, also by conditional requests."""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.devstack.main_job import Person
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions, only_row

MEMBERS = {
    "id",
    "email",
    "email_verified",
    "first_name",
    "last_name",
    "profile_image_url",
    "phone",
    "status",
    "onboarding_completed",
    "onboarding_step",
    "last_login_at",
    "last_active_at",
    "created_at",
    "updated_at",
}


async def test_profile_is_the_same_as_me_and_under_its_own_id(journey: Journey) -> None:
    ada = await journey.sign_up()

    as_me = await journey.client.get("/users/me", headers=ada.headers)
    by_id = await journey.client.get(f"/users/{ada.id}", headers=ada.headers)

    assert as_me.status_code == by_id.status_code == 200
    assert as_me.json() == by_id.json()
    profile = as_me.json()
    assert (profile["id"], profile["email"], profile["first_name"]) == (ada.id, "ada@example.com", "Ada")
    assert profile["created_at"].endswith("Z")


async def test_profile_shows_its_members_and_no_column_beyond(journey: Journey) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get("/users/me", headers=ada.headers)

    assert set(response.json()) == MEMBERS


async def test_profile_of_somebody_else_looks_like_one_that_does_not_exist(journey: Journey) -> None:
    ada = await journey.sign_up()
    bob = await journey.sign_up("bob@example.com")

    of_bob = await journey.client.get(f"/users/{bob.id}", headers=ada.headers)
    of_nobody = await journey.client.get("/users/user_nobody", headers=ada.headers)

    bodies = [assert_problem(response, 404, "user_not_found") for response in (of_bob, of_nobody)]
    volatile = {"timestamp", "request_id"}
    assert {key: bodies[0][key] for key in bodies[0].keys() - volatile} == {
        key: bodies[1][key] for key in bodies[1].keys() - volatile
    }


@pytest.mark.parametrize("user_id", ["ME", "me ", "%6De%00", "..", "user_%F0%9F%98%80", "%ff"])
async def test_profile_under_an_id_of_another_spelling_is_not_found(journey: Journey, user_id: str) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get(f"/users/{user_id}", headers=ada.headers)

    assert response.status_code == 404, response.text


async def test_profile_under_an_endless_id_is_nobodys(journey: Journey) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get(f"/users/{'u' * 65}", headers=ada.headers)

    assert_problem(response, 404, "user_not_found")


async def test_profile_of_a_user_who_is_deleted_while_signed_in_is_gone(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.webhook("user.deleted", journey.sandbox.clerk.delete_user(ada.id))

    response = await journey.client.get("/users/me", headers=ada.headers)

    assert_problem(response, 403, "user_inactive")


# Conditional requests (RFC 9110 section 13)


async def etag_of(journey: Journey, person: Person) -> str:
    return (await journey.client.get("/users/me", headers=person.headers)).headers["etag"]


async def patch(journey: Journey, person: Person, if_match: str | None = None, **body: Any) -> int:
    headers = person.headers | ({} if if_match is None else {"if-match": if_match})
    return (await journey.client.patch("/users/me", headers=headers, json=body)).status_code


async def test_etag_is_strong_and_the_same_for_every_way_to_the_profile(journey: Journey) -> None:
    ada = await journey.sign_up()

    tags = {
        (await journey.client.get(path, headers=ada.headers)).headers["etag"]
        for path in ("/users/me", f"/users/{ada.id}", "/auth/me", "/api/v1/users/me")
    }
    edited = await journey.client.patch("/users/me", headers=ada.headers, json={"first_name": "Augusta"})

    (tag,) = tags
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', tag)
    assert edited.headers["etag"] == await etag_of(journey, ada) != tag


@pytest.mark.parametrize("sent", ["{}", "W/{}", '"other", {}', 'W/"x",W/{} , "y"', "*", " * ", '"a,b", {}'])
async def test_get_of_what_the_client_holds_is_not_modified(journey: Journey, sent: str) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)

    response = await journey.client.get("/users/me", headers=ada.headers | {"if-none-match": sent.replace("{}", tag)})

    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in response.headers


@pytest.mark.parametrize(
    "sent", ['"1"', '"0"', 'W/"1-0-0"', "", "garbage", '"', '"unclosed', ",,,", '"\x7f"', "{" * 500]
)
async def test_get_of_what_the_client_does_not_hold_is_answered_in_full(journey: Journey, sent: str) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get("/users/me", headers=ada.headers | {"if-none-match": sent})

    assert (response.status_code, response.json()["id"]) == (200, ada.id)


async def test_etag_of_a_stale_representation_is_answered_in_full(journey: Journey) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)
    await patch(journey, ada, first_name="Augusta")

    response = await journey.client.get("/users/me", headers=ada.headers | {"if-none-match": tag})

    assert (response.status_code, response.json()["first_name"]) == (200, "Augusta")


@pytest.mark.parametrize("sent", ["{}", "*", '"other", {}', '"99-0-0" ,{}, "98"'])
async def test_edit_of_the_expected_version_is_made(journey: Journey, sent: str) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)

    assert await patch(journey, ada, sent.replace("{}", tag), first_name="Augusta") == 200


@pytest.mark.parametrize(
    "sent",
    ["W/{}", '"99"', '"99-0-0"', "", "garbage", '"', '"*"', "1", '"01-0-0"', '"-1"', '"1e0"', '"9999999999"', "\xb9"],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_change_of_another_version_than_the_expected_is_refused(journey: Journey, method: str, sent: str) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)
    headers = ada.headers | {"if-match": sent.replace("{}", tag)}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    body = None if method == "DELETE" else {"first_name": "Augusta"}
    response = await journey.client.request(method, "/users/me", headers=encoded, json=body)

    assert_problem(response, 412, "precondition_failed")
    assert await etag_of(journey, ada) == tag


async def test_fifty_edits_of_one_version_at_once_make_one(journey: Journey) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)

    statuses = await asyncio.gather(*(patch(journey, ada, tag, onboarding_step=f"step {n}") for n in range(50)))

    assert sorted(statuses) == [200] + [412] * 49
    assert (await audit_actions(journey, ada.id)).count("user.updated") == 1


async def test_edits_of_different_fields_at_once_lose_nothing(journey: Journey) -> None:
    ada = await journey.sign_up()
    fields: dict[str, Any] = {
        "first_name": "Augusta",
        "last_name": "King",
        "profile_image_url": "https://images.example.com/ada.png",
        "onboarding_completed": True,
        "onboarding_step": "done",
    }

    statuses = await asyncio.gather(*(patch(journey, ada, **{name: value}) for name, value in fields.items()))

    profile = (await journey.client.get("/users/me", headers=ada.headers)).json()
    assert set(statuses) == {200}
    assert {name: profile[name] for name in fields} == fields
    row = await only_row(journey, "SELECT version, local_fields FROM users WHERE id = $1", ada.id)
    assert row == {"version": 6, "local_fields": '["first_name", "last_name", "profile_image_url"]'}


async def test_etag_changes_with_activity_and_still_matches_the_version(journey: Journey) -> None:
    ada = await journey.sign_up()
    tag = await etag_of(journey, ada)
    await journey.owner.execute("UPDATE users SET last_active_at = now() + interval '1 hour' WHERE id = $1", ada.id)

    response = await journey.client.get("/users/me", headers=ada.headers | {"if-none-match": tag})

    assert response.status_code == 200
    assert response.headers["etag"] != tag
    assert await patch(journey, ada, tag, first_name="Augusta") == 200


# The end of an account


async def test_deletion_of_ones_own_account_ends_sign_in_and_tokens_at_once(connected: Connected) -> None:
    journey = connected.journey
    tag = await etag_of(journey, connected.person)

    response = await journey.client.delete("/users/me", headers=connected.headers | {"if-match": tag})

    assert response.status_code == 200, response.text
    confirmed = response.json()
    spent = datetime.fromisoformat(confirmed["restorable_until"]) - datetime.fromisoformat(confirmed["deleted_at"])
    assert spent == timedelta(days=30)
    ended = confirmed["ended"]
    assert (ended["sessions"], ended["token_reads"]) == ("all", "all")
    assert [(one["id"], one["revocation"]) for one in ended["integrations"]] == [(connected.integration_id, "pending")]
    for method in ("GET", "PATCH", "DELETE"):
        refusal = await journey.client.request(method, "/users/me", headers=connected.headers)
        body = assert_problem(refusal, 403, "user_inactive")
        assert {name: body[name] for name in ("deleted_at", "restorable_until")} == {
            name: confirmed[name] for name in ("deleted_at", "restorable_until")
        }
    assert_problem(await connected.get(), 404, "user_not_found")
    row = await only_row(journey, "SELECT deleted_by, status, deleted_at IS NULL AS live FROM users")
    assert row == {"deleted_by": "user", "status": "deactivated", "live": False}
    assert (await audit_actions(journey, connected.user_id))[-1] == "user.deleted"


async def test_deletion_twice_at_once_is_made_once(journey: Journey) -> None:
    ada = await journey.sign_up()
    await etag_of(journey, ada)

    answers = await asyncio.gather(*(journey.client.delete("/users/me", headers=ada.headers) for _ in range(10)))

    confirmed = [answer.json() for answer in answers if answer.status_code == 200]
    assert len({one["deleted_at"] for one in confirmed}) == 1
    assert {answer.status_code for answer in answers} <= {200, 403}
    assert (await audit_actions(journey, ada.id)).count("user.deleted") == 1


async def test_deletion_by_an_impersonator_is_refused(journey: Journey) -> None:
    ada = await journey.sign_up()
    headers = journey.headers_of(ada.id, act={"sub": "user_support"})

    response = await journey.client.delete("/users/me", headers=headers)

    assert_problem(response, 403, "impersonation_refused")
    assert (await journey.client.get("/users/me", headers=ada.headers)).status_code == 200
