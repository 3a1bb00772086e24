"""Tests of `PATCH` and `PUT /users/{user_id}`: JSON Merge Patch (RFC 7396), which fields users may change, and what is
recorded of a change."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.devstack.main_job import Person
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem, audit_actions, only_row

pytestmark = pytest.mark.parametrize("method", ["PATCH", "PUT"])
IMAGE = "https://images.example.com/ada.png"
EDITS: dict[str, Any] = {
    "first_name": "Augusta",
    "last_name": "King",
    "profile_image_url": IMAGE,
    "onboarding_completed": True,
    "onboarding_step": "invite-team",
}
WRONG_VALUES: dict[str, list[Any]] = {
    "onboarding_completed": ["yes", "true", "", 1, 0, 1.0, [], {}],
    "first_name": [1, 0, True, 1.5, ["Ada"], {}, ""],
    "last_name": [1, 0, True, 1.5, ["King"], {}, ""],
    "profile_image_url": [1, True, [IMAGE], "ada.png", "javascript:alert(1)"],
    "onboarding_step": [1, False, [], {}, " ", "x" * 65],
}


async def edit(journey: Journey, method: str, ada: Person, body: Any, **headers: str) -> httpx.Response:
    return await journey.client.request(method, "/users/me", headers=ada.headers | headers, json=body)


async def read(journey: Journey, ada: Person) -> dict[str, Any]:
    profile: dict[str, Any] = (await journey.client.get("/users/me", headers=ada.headers)).json()
    return profile


async def forget_records(journey: Journey) -> None:
    """Delete audit rows and events, so that a test finds only its own."""
    await journey.owner.execute("DELETE FROM audit_details; DELETE FROM audit_logs; DELETE FROM outbox_events")


async def recorded(journey: Journey) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the changes in the audit (old and new values) and the payloads of the events, each the oldest first."""
    audit = await journey.owner.fetch("SELECT changes FROM audit_details ORDER BY id")
    events = await journey.owner.fetch("SELECT payload FROM outbox_events ORDER BY seq")
    return [json.loads(row["changes"]) for row in audit], [json.loads(row["payload"]) for row in events]


@pytest.mark.parametrize("field", list(EDITS))
async def test_edit_of_one_field_changes_it_and_no_other(journey: Journey, method: str, field: str) -> None:
    ada = await journey.sign_up()
    before = await read(journey, ada)

    response = await edit(journey, method, ada, {field: EDITS[field]})

    assert response.status_code == 200, response.text
    after = await read(journey, ada)
    assert response.json() == after == before | {field: EDITS[field], "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]


async def test_edit_of_all_fields_at_once_is_kept(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()

    response = await edit(journey, method, ada, EDITS)

    assert {name: response.json()[name] for name in EDITS} == EDITS


@pytest.mark.parametrize(("field", "default"), [("onboarding_completed", False), ("onboarding_step", None)])
async def test_null_returns_onboarding_to_its_beginning(
    journey: Journey, method: str, field: str, default: object
) -> None:
    ada = await journey.sign_up()
    await edit(journey, method, ada, EDITS)

    response = await edit(journey, method, ada, {field: None})

    assert response.json()[field] == default


@pytest.mark.parametrize("field", ["first_name", "last_name", "profile_image_url"])
async def test_null_hands_a_field_back_to_upstreams_latest_value(journey: Journey, method: str, field: str) -> None:
    ada = await journey.sign_up()
    await edit(journey, method, ada, EDITS)
    upstream = {"first_name": "Ada Augusta", "last_name": "Lovelace", "image_url": "https://img.clerk.com/new"}
    await journey.webhook("user.updated", journey.sandbox.clerk.update_user(ada.id, **upstream))
    while_edited = await read(journey, ada)

    response = await edit(journey, method, ada, {field: None})

    latest = upstream["image_url" if field == "profile_image_url" else field]
    assert {name: while_edited[name] for name in EDITS} == EDITS
    assert {name: response.json()[name] for name in EDITS} == EDITS | {field: latest}


async def test_field_that_was_handed_back_follows_upstream_again(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    await edit(journey, method, ada, {"first_name": "Augusta", "last_name": "King"})
    await edit(journey, method, ada, {"first_name": None})

    user = journey.sandbox.clerk.update_user(ada.id, first_name="Countess", last_name="Lovelace")
    await journey.webhook("user.updated", user)

    profile = await read(journey, ada)
    assert (profile["first_name"], profile["last_name"]) == ("Countess", "King")


async def test_null_for_a_user_whom_upstream_has_not_described_yet_leaves_no_name(
    journey: Journey, method: str
) -> None:
    early = Person("user_early", "early@example.com", journey.headers_of("user_early"))
    await edit(journey, method, early, {"first_name": "Early"})

    response = await edit(journey, method, early, {"first_name": None})

    assert response.json()["first_name"] is None


@pytest.mark.parametrize("value", ["new@example.com", "ada@example.com", None, 1, {"a": []}])
@pytest.mark.parametrize("fields", [["email"], ["phone"], ["email", "phone"]])
async def test_email_and_phone_belong_to_upstream(
    journey: Journey, method: str, fields: list[str], value: object
) -> None:
    ada = await journey.sign_up()
    before = await read(journey, ada)

    response = await edit(journey, method, ada, {"first_name": "Augusta"} | dict.fromkeys(fields, value))

    problem = assert_problem(response, 409, "field_owned_upstream")
    assert [error["loc"] for error in problem["details"]["errors"]] == [["body", field] for field in fields]
    assert await read(journey, ada) == before


async def test_unknown_member_is_refused_by_name(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()

    response = await edit(journey, method, ada, {"first_name": "Augusta", "nickname": "Gus"})

    problem = assert_problem(response, 422, "validation_failed")
    assert [error["loc"] for error in problem["details"]["errors"]] == [["body", "nickname"]]
    assert "Gus" not in response.text
    assert (await read(journey, ada))["first_name"] == "Ada"


@pytest.mark.parametrize("document", [[], [{"first_name": "Augusta"}], "first_name", 1, True, None])
async def test_body_that_is_no_object_is_refused(journey: Journey, method: str, document: object) -> None:
    ada = await journey.sign_up()

    # The body is encoded here, since httpx sends none for json=None.
    response = await journey.client.request(
        method, "/users/me", headers=ada.headers | {"content-type": "application/json"}, content=json.dumps(document)
    )

    assert_problem(response, 422, "validation_failed")


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG_VALUES.items() for value in values]
)
async def test_value_of_another_type_is_refused_and_never_converted(
    journey: Journey, method: str, field: str, value: object
) -> None:
    ada = await journey.sign_up()
    before = await read(journey, ada)

    response = await edit(journey, method, ada, {field: value})

    problem = assert_problem(response, 422, "validation_failed")
    assert {error["loc"][1] for error in problem["details"]["errors"]} == {field}
    assert await read(journey, ada) == before


async def test_merge_patch_media_type_is_accepted(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    headers = ada.headers | {"content-type": "application/merge-patch+json"}

    response = await journey.client.request(method, "/users/me", headers=headers, content=b'{"first_name": "Augusta"}')

    assert response.json()["first_name"] == "Augusta"


async def test_name_is_kept_trimmed_and_composed(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()

    response = await edit(journey, method, ada, {"first_name": "  Jose\u0301 "})

    assert response.json()["first_name"] == "Jos\u00e9"


async def test_edit_is_audited_with_old_and_new_values_and_told_by_name(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    await forget_records(journey)

    await edit(journey, method, ada, {"first_name": "Augusta", "onboarding_completed": True, "last_name": "Example"})

    assert await audit_actions(journey, ada.id) == ["user.updated"]
    (changes,), (event,) = await recorded(journey)
    assert changes == {
        "first_name": ["Ada", "Augusta"],
        "onboarding_completed": [False, True],
        "local_fields": [[], ["first_name", "last_name"]],
    }
    assert event == {"user_id": ada.id, "changed": ["first_name", "onboarding_completed"]}


async def test_edit_that_changes_nothing_leaves_no_trace(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    first = await edit(journey, method, ada, EDITS)
    await forget_records(journey)

    again = await edit(journey, method, ada, EDITS)
    empty = await edit(journey, method, ada, {})

    assert again.status_code == empty.status_code == 200
    assert again.json() == empty.json() == first.json()
    assert again.headers["etag"] == empty.headers["etag"] == first.headers["etag"]
    assert await audit_actions(journey) == []
    assert await recorded(journey) == ([], [])


async def test_edit_by_an_impersonator_is_audited_with_their_name(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    await forget_records(journey)
    headers = journey.headers_of(ada.id, act={"sub": "user_support"})

    response = await journey.client.request(method, "/users/me", headers=headers, json={"first_name": "Augusta"})

    assert response.status_code == 200, response.text
    edits = "SELECT actor_id, impersonator, user_id FROM audit_logs WHERE action = 'user.updated'"
    row = await only_row(journey, edits)
    assert row == {"actor_id": ada.id, "impersonator": "user_support", "user_id": ada.id}


# Mass assignment (OWASP API3:2023): all members of the answer that are not in EDITS are sent back, changed or not.


def _as_it_is(value: object) -> object:
    return value


def _tampered(value: object) -> object:
    changed: dict[type, object] = {bool: not value, str: f"{value}x", type(None): "2020-01-01T00:00:00Z"}
    return changed[type(value)]


async def test_members_that_are_not_editable_never_change_one_by_one(journey: Journey, method: str) -> None:
    ada = await journey.sign_up()
    row = await only_row(journey, "SELECT * FROM users WHERE id = $1", ada.id)
    profile = await read(journey, ada)
    beyond = {"version": 9, "local_fields": [], "upstream_status": "active", "deleted_at": None, "role": "admin"}
    members = {**profile, **beyond, "user_id": "user_other", "is_admin": True, "email_normalized": "x"}

    statuses = {
        (await edit(journey, method, ada, {name: sent})).status_code
        for name, value in members.items()
        if name not in EDITS
        for sent in ([value, _tampered(value)] if name in profile else [value])
    }

    assert statuses == {409, 422}
    after = await only_row(journey, "SELECT * FROM users WHERE id = $1", ada.id)
    assert after | {"last_active_at": None} == row | {"last_active_at": None}


@pytest.mark.parametrize("alter", [_as_it_is, _tampered])
async def test_members_that_are_not_editable_never_change_together(
    journey: Journey, method: str, alter: Callable[[object], object]
) -> None:
    ada = await journey.sign_up()
    row = await only_row(journey, "SELECT * FROM users WHERE id = $1", ada.id)
    profile = await read(journey, ada)
    body = {name: alter(value) for name, value in profile.items()}

    response = await edit(journey, method, ada, body | EDITS)

    assert_problem(response, 422, "validation_failed")
    after = await only_row(journey, "SELECT * FROM users WHERE id = $1", ada.id)
    assert after | {"last_active_at": None} == row | {"last_active_at": None}
