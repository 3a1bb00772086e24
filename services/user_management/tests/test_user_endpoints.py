"""`/users/{user_id}`: one's own profile, and nobody else's."""

import pytest

from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem

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


async def test_profile_under_an_endless_id_is_refused(journey: Journey) -> None:
    ada = await journey.sign_up()

    response = await journey.client.get(f"/users/{'u' * 65}", headers=ada.headers)

    assert_problem(response, 422, "validation_failed")


async def test_profile_of_a_user_who_is_deleted_while_signed_in_is_gone(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.webhook("user.deleted", journey.sandbox.clerk.delete_user(ada.id))

    response = await journey.client.get("/users/me", headers=ada.headers)

    assert_problem(response, 403, "user_inactive")
