"""Tests of `POST /webhooks/clerk`: which messages are accepted, and that each event takes effect once."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from standardwebhooks import Webhook

from services.sandbox.clerk.webhooks import encode_event, new_webhook_secret, signature_headers
from services.user_management.container import Container
from services.user_management.security.webhook_signature import TOLERANCE_SECONDS, WebhookVerifier
from services.user_management.services.webhook_service import WebhookService
from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import assert_problem, audit_actions, only_row

JSON = {"content-type": "application/json"}


async def _send(journey: Journey, headers: Any, body: bytes) -> httpx.Response:
    return await journey.client.post("/webhooks/clerk", headers=headers, content=body)


async def _tell(journey: Journey, event: Any, **options: Any) -> httpx.Response:
    """Send an event, or a body byte for byte, correctly signed; return the answer."""
    body = event if isinstance(event, bytes) else encode_event(event)
    return await _send(journey, journey.sandbox.clerk.sign(body, **options) | JSON, body)


async def _count(journey: Journey, table: str) -> int:
    count: int = await journey.owner.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own table names
    return count


async def _nothing_happened(journey: Journey) -> bool:
    return await _count(journey, "webhook_events") == await _count(journey, "users") == 0


def _created(journey: Journey, **fields: Any) -> tuple[dict[str, str], bytes]:
    user = journey.sandbox.clerk.create_user(email="ada@example.com", **fields)
    return journey.sandbox.clerk.signed_event("user.created", user)


MALFORMED: dict[str, dict[str, str | None]] = {
    "no id": {"svix-id": None},
    "no timestamp": {"svix-timestamp": None},
    "no signature": {"svix-signature": None},
    "empty id": {"svix-id": ""},
    "long id": {"svix-id": "m" * 129},
    "id with a space": {"svix-id": "msg one"},
    "empty timestamp": {"svix-timestamp": ""},
    "float timestamp": {"svix-timestamp": "1.5"},
    "negative timestamp": {"svix-timestamp": "-1"},
    "digits of another script": {"svix-timestamp": "\u0661\u0662"},
    "endless timestamp": {"svix-timestamp": "9" * 400},
    "empty signature": {"svix-signature": ""},
    "signature without version": {"svix-signature": "A" * 43 + "="},
    "signature of other characters": {"svix-signature": "v1,$$$"},
    "two spaces": {"svix-signature": "v1,AAAA  v1,AAAA"},
    "many signatures": {"svix-signature": " ".join(["v1,AAAA"] * 17)},
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_headers_are_refused_and_store_nothing(journey: Journey, case: str) -> None:
    headers, body = _created(journey)
    changed = {**headers, **MALFORMED[case]}
    sent = [(name.encode(), value.encode()) for name, value in changed.items() if value is not None]

    response = await _send(journey, sent, body)

    assert_problem(response, 400, "invalid_webhook_headers")
    assert await _nothing_happened(journey)


def _renamed(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers under the names of the Standard Webhooks specification."""
    return {name.replace("svix-", "webhook-"): value for name, value in headers.items()}


async def test_headers_named_by_the_standard_are_accepted(journey: Journey) -> None:
    headers, body = _created(journey)

    first = await _send(journey, _renamed(headers), body)
    again = await _send(journey, headers, body)

    assert first.json() == {"duplicate": False, "applied": True}
    assert again.json() == {"duplicate": True, "applied": True}


@pytest.mark.parametrize("added", [["id", "timestamp", "signature"], ["id"], ["timestamp"], ["signature"]])
@pytest.mark.parametrize("value", [None, "", "other"])
async def test_second_family_of_headers_is_refused_even_if_it_agrees(
    journey: Journey, added: list[str], value: str | None
) -> None:
    headers, body = _created(journey)
    both = {f"webhook-{part}": headers[f"svix-{part}"] if value is None else value for part in added}

    response = await _send(journey, headers | both, body)

    assert_problem(response, 400, "invalid_webhook_headers")
    assert await _nothing_happened(journey)


@pytest.mark.parametrize("moved", [["id"], ["timestamp"], ["signature"], ["id", "timestamp"]])
async def test_headers_of_two_families_do_not_complete_each_other(journey: Journey, moved: list[str]) -> None:
    headers, body = _created(journey)
    mixed = {
        name.replace("svix-", "webhook-") if name.removeprefix("svix-") in moved else name: value
        for name, value in headers.items()
    }

    response = await _send(journey, mixed, body)

    assert_problem(response, 400, "invalid_webhook_headers")
    assert await _nothing_happened(journey)


async def test_documented_event_is_accepted_under_the_documented_headers(journey: Journey, app: FastAPI) -> None:
    operation = app.openapi()["paths"]["/webhooks/clerk"]["post"]
    documented = operation["requestBody"]["content"]["application/json"]["example"]

    response = await _tell(journey, documented)

    assert response.json() == {"duplicate": False, "applied": True}
    assert (await only_row(journey, "SELECT email FROM users"))["email"] == documented["data"]["email_addresses"][0][
        "email_address"
    ]
    parameters = {parameter["name"]: parameter["in"] for parameter in operation["parameters"]}
    names = [f"{family}-{part}" for family in ("svix", "webhook") for part in ("id", "timestamp", "signature")]
    assert parameters == dict.fromkeys(names, "header")
    assert "415" not in operation["responses"]


@pytest.mark.parametrize("family", ["svix", "webhook"])
@pytest.mark.parametrize("part", ["id", "timestamp", "signature"])
async def test_header_that_comes_twice_is_refused(journey: Journey, family: str, part: str) -> None:
    headers, body = _created(journey)
    headers, name = _renamed(headers) if family == "webhook" else headers, f"{family}-{part}"

    response = await _send(journey, [*headers.items(), (name, headers[name])], body)

    assert_problem(response, 400, "invalid_webhook_headers")


@pytest.mark.parametrize(
    "signature",
    [
        "v1,AAAA",
        "v1," + "A" * 43 + "=",
        "v2," + "A" * 43 + "=",
        "v1a," + "A" * 86 + "==",
    ],
)
async def test_signature_that_does_not_match_is_refused_and_stores_nothing(journey: Journey, signature: str) -> None:
    headers, body = _created(journey)

    response = await _send(journey, headers | {"svix-signature": signature}, body)

    assert_problem(response, 401, "invalid_signature")
    assert await _nothing_happened(journey)


async def test_signature_binds_id_timestamp_and_every_byte_of_the_body(journey: Journey) -> None:
    headers, body = _created(journey)
    moved = str(int(headers["svix-timestamp"]) + 1)
    tampered = [
        (headers | {"svix-id": "msg_other"}, body),
        (headers | {"svix-timestamp": moved}, body),
        (headers, body + b" "),
        (headers, body.replace(b"ada@example.com", b"eve@example.com")),
        (headers, b""),
        (signature_headers(body, message_id="msg", timestamp=int(time.time()), secrets=[new_webhook_secret()]), body),
    ]

    responses = [await _send(journey, *one) for one in tampered]

    for response in responses:
        assert_problem(response, 401, "invalid_signature")
    assert await _nothing_happened(journey)


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (TOLERANCE_SECONDS - 5, 200),
        (TOLERANCE_SECONDS + 1, 401),
        (5 - TOLERANCE_SECONDS, 200),
        (-TOLERANCE_SECONDS - 5, 401),
        (86_400, 401),
    ],
)
async def test_timestamp_may_be_five_minutes_away(journey: Journey, age: int, status: int) -> None:
    user = journey.sandbox.clerk.create_user(email="ada@example.com")

    response = await journey.webhook("user.created", user, timestamp=int(time.time()) - age)

    assert response.status_code == status, response.text
    assert await _count(journey, "webhook_events") == (1 if status == 200 else 0)


async def test_signature_of_the_independent_library_is_accepted(journey: Journey) -> None:
    clerk = journey.sandbox.clerk
    body = encode_event(clerk.event("user.created", clerk.create_user(email="zoë@example.com", first_name="Zoë")))
    now = datetime.now(UTC)
    signature = Webhook(clerk.webhook_secret).sign("msg_independent", now, body.decode())
    headers = {"svix-id": "msg_independent", "svix-timestamp": str(int(now.timestamp())), "svix-signature": signature}

    response = await _send(journey, headers | JSON, body)

    assert response.status_code == 200, response.text
    assert (await only_row(journey, "SELECT first_name FROM users"))["first_name"] == "Zoë"


async def test_signature_among_several_is_found(journey: Journey) -> None:
    headers, body = _created(journey)
    several = f"v2,AAAA v1,{'A' * 43}= {headers['svix-signature']}"

    response = await _send(journey, headers | {"svix-signature": several}, body)

    assert response.status_code == 200, response.text


async def test_secret_that_is_being_rotated_is_active_beside_the_new_one(
    journey: Journey, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_webhook_secret(), new_webhook_secret()
    replace_in_group(monkeypatch, container, "clerk", verifier=WebhookVerifier([new, old]))
    clerk = journey.sandbox.clerk
    body = encode_event(clerk.event("user.created", clerk.create_user()))

    statuses = []
    for number, secret in enumerate([old, new, clerk.webhook_secret]):
        headers = signature_headers(body, message_id=f"msg_{number}", timestamp=int(time.time()), secrets=[secret])
        statuses.append((await _send(journey, headers | JSON, body)).status_code)

    assert statuses == [200, 200, 401]


async def test_created_user_has_a_profile_preferences_audit_and_event(journey: Journey) -> None:
    user = journey.sandbox.clerk.create_user(
        email="Ada@Example.com", first_name="Ada", last_name="Lovelace", phone="+441234567890"
    )

    response = await journey.webhook("user.created", user, message_id="msg_1")

    assert response.json() == {"duplicate": False, "applied": True}
    row = await only_row(journey, "SELECT * FROM users")
    assert (row["id"], row["email"], row["email_normalized"]) == (user["id"], "Ada@Example.com", "ada@example.com")
    assert (row["first_name"], row["last_name"], row["phone"]) == ("Ada", "Lovelace", "+441234567890")
    assert (row["email_verified"], row["status"], row["profile_image_url"]) == (True, "active", user["image_url"])
    assert (await only_row(journey, "SELECT * FROM user_identities"))["subject"] == user["id"]
    assert (await only_row(journey, "SELECT * FROM user_preferences"))["user_id"] == user["id"]
    audit = await only_row(journey, "SELECT * FROM audit_logs")
    assert (audit["action"], audit["actor_kind"], audit["actor_id"]) == ("user.created", "system", "clerk")
    event = await only_row(journey, "SELECT * FROM outbox_events")
    assert (event["event_type"], json.loads(event["payload"])) == ("user.created", {"user_id": user["id"]})
    inbox = await only_row(journey, "SELECT * FROM webhook_events")
    assert (inbox["message_id"], inbox["event_type"]) == ("msg_1", "user.created")
    assert inbox["applied_at"] is not None
    assert json.loads(inbox["payload"])["data"]["id"] == user["id"]


async def test_same_message_fifty_times_at_once_has_one_effect(journey: Journey) -> None:
    headers, body = _created(journey)

    responses = await asyncio.gather(*(_send(journey, headers, body) for _ in range(50)))

    assert {response.status_code for response in responses} == {200}
    assert sorted(response.json()["duplicate"] for response in responses) == [False] + [True] * 49
    assert await _count(journey, "webhook_events") == await _count(journey, "users") == 1
    assert await audit_actions(journey) == ["user.created"]


async def test_unknown_type_is_stored_and_accepted(journey: Journey) -> None:
    event = journey.sandbox.clerk.event("organization.created", {"id": "org_1", "new": ["member"]})

    response = await _tell(journey, event)

    assert response.status_code == 200, response.text
    assert (await only_row(journey, "SELECT * FROM webhook_events"))["event_type"] == "organization.created"
    assert await _count(journey, "users") == 0


async def test_user_without_any_address_is_a_user(journey: Journey) -> None:
    user = journey.sandbox.clerk.create_user()
    dangling = journey.sandbox.clerk.create_user(email="ada@example.com") | {
        "primary_email_address_id": "idn_elsewhere"
    }

    responses = [await journey.webhook("user.created", one) for one in (user, dangling)]

    assert [response.status_code for response in responses] == [200, 200]
    rows = await journey.owner.fetch("SELECT email, email_normalized, email_verified FROM users")
    assert [tuple(row) for row in rows] == [(None, None, False)] * 2


async def test_two_users_may_share_an_address_for_a_moment(journey: Journey) -> None:
    first = await journey.sign_up("shared@example.com")
    second = await journey.sign_up("Shared@example.com")

    assert first.id != second.id
    assert await _count(journey, "users") == 2


async def test_update_changes_what_changed_and_says_so(journey: Journey) -> None:
    ada = await journey.sign_up()
    updated = journey.sandbox.clerk.update_user(ada.id, first_name="Augusta", email="countess@example.com")

    response = await journey.webhook("user.updated", updated)

    assert response.status_code == 200, response.text
    row = await only_row(journey, "SELECT * FROM users")
    assert (row["first_name"], row["email"], row["version"]) == ("Augusta", "countess@example.com", 2)
    assert await audit_actions(journey) == ["user.created", "user.updated"]
    detail = await only_row(journey, "SELECT changes FROM audit_details")
    assert json.loads(detail["changes"])["first_name"] == ["Ada", "Augusta"]
    event = await only_row(journey, "SELECT payload FROM outbox_events WHERE event_type = 'user.updated'")
    assert json.loads(event["payload"]) == {
        "user_id": ada.id,
        "changed": ["email", "first_name"],
    }


async def test_update_older_than_what_is_stored_is_ignored(journey: Journey) -> None:
    ada = await journey.sign_up()
    older = journey.sandbox.clerk.update_user(ada.id, first_name="Older")
    newer = journey.sandbox.clerk.update_user(ada.id, first_name="Newer")

    for user in (newer, older, newer):
        assert (await journey.webhook("user.updated", user)).status_code == 200

    assert (await only_row(journey, "SELECT first_name FROM users"))["first_name"] == "Newer"
    assert await audit_actions(journey) == ["user.created", "user.updated"]
    assert await _count(journey, "webhook_events") == 4


async def test_field_that_was_edited_here_is_not_overwritten(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.owner.execute("""UPDATE users SET local_fields = '["first_name"]'""")
    updated = journey.sandbox.clerk.update_user(ada.id, first_name="Clerk", last_name="Clerk")

    await journey.webhook("user.updated", updated)

    row = await only_row(journey, "SELECT first_name, last_name FROM users")
    assert (row["first_name"], row["last_name"]) == ("Ada", "Clerk")


@pytest.mark.parametrize("flag", ["banned", "locked"])
async def test_user_whom_clerk_locks_out_is_suspended_until_let_in_again(journey: Journey, flag: str) -> None:
    ada = await journey.sign_up()

    await journey.webhook("user.updated", journey.sandbox.clerk.update_user(ada.id, **{flag: True}))
    locked_out = await journey.client.get("/users/me", headers=ada.headers)
    await journey.webhook("user.updated", journey.sandbox.clerk.update_user(ada.id, **{flag: False}))
    let_in = await journey.client.get("/users/me", headers=ada.headers)

    assert_problem(locked_out, 403, "user_inactive")
    assert let_in.status_code == 200


async def test_delete_wins_over_whatever_comes_later(journey: Journey) -> None:
    clerk = journey.sandbox.clerk
    ada = await journey.sign_up()
    later = clerk.update_user(ada.id, first_name="Late")
    await journey.webhook("user.deleted", clerk.delete_user(ada.id))

    for event_type in ("user.updated", "user.created", "user.deleted"):
        assert (await journey.webhook(event_type, later)).status_code == 200

    row = await only_row(journey, "SELECT * FROM users")
    assert (row["first_name"], row["status"], row["deleted_by"]) == ("Late", "deactivated", "upstream")
    assert row["deleted_at"] is not None
    assert await audit_actions(journey) == ["user.created", "user.deleted", "user.updated"]
    assert_problem(await journey.client.get("/users/me", headers=ada.headers), 403, "user_inactive")


async def test_delete_that_comes_before_its_create_wins_too(journey: Journey) -> None:
    clerk = journey.sandbox.clerk
    user = clerk.create_user(email="ada@example.com")

    await journey.webhook("user.deleted", {"id": user["id"], "object": "user", "deleted": True})
    await journey.webhook("user.created", user)

    row = await only_row(journey, "SELECT * FROM users")
    assert (row["deleted_by"], row["status"]) == ("upstream", "deactivated")
    assert row["deleted_at"] is not None
    assert_problem(await journey.client.get("/users/me", headers=journey.headers_of(user["id"])), 403, "user_inactive")


async def test_delete_of_something_that_is_no_user_changes_nothing(journey: Journey) -> None:
    ada = await journey.sign_up()

    for remains in ({"deleted": True}, {"id": None}, {"id": "me"}, {"id": ["user_x"]}):
        assert (await journey.webhook("user.deleted", remains)).status_code == 200

    assert (await only_row(journey, "SELECT * FROM users"))["deleted_at"] is None
    assert (await journey.client.get("/users/me", headers=ada.headers)).status_code == 200


async def test_effect_that_fails_leaves_nothing_but_the_event_which_is_tried_again(journey: Journey) -> None:
    headers, body = _created(journey)
    await journey.owner.execute("ALTER TABLE user_preferences ADD CONSTRAINT fails CHECK (false) NOT VALID")
    try:
        failed = await _send(journey, headers, body)
        left = {table: await _count(journey, table) for table in ("users", "audit_logs", "outbox_events")}
        kept = await only_row(journey, "SELECT * FROM webhook_events")
    finally:
        await journey.owner.execute("ALTER TABLE user_preferences DROP CONSTRAINT fails")
    await journey.owner.execute("UPDATE webhook_events SET next_attempt_at = now()")

    await journey.container.clerk.webhooks.retry_due(TESTER)

    assert failed.json() == {"duplicate": False, "applied": False}
    assert left == {"users": 0, "audit_logs": 0, "outbox_events": 0}
    assert (kept["applied_at"], kept["attempts"]) == (None, 1)
    assert "IntegrityError" in kept["error"]
    assert "ada@example.com" not in kept["error"]
    assert kept["next_attempt_at"] > kept["received_at"]
    assert await audit_actions(journey) == ["user.created"]
    event = await only_row(journey, "SELECT * FROM webhook_events")
    assert (event["attempts"], event["error"], event["next_attempt_at"]) == (2, None, None)
    assert event["applied_at"] is not None


async def test_event_of_another_instance_is_refused_where_one_is_configured(
    journey: Journey, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk = journey.sandbox.clerk
    strict = WebhookService(
        database=container.resources.database,
        unit_of_work=container.resources.unit_of_work,
        upstream=container.users.upstream,
        states=container.users.states,
        issuer=clerk.issuer,
        instance_id=clerk.instance_id,
        start_slice=container.resources.start_slice,
    )
    replace_in_group(monkeypatch, container, "clerk", webhooks=strict)
    user = clerk.create_user(email="ada@example.com")

    foreign = await _tell(journey, clerk.event("user.created", user, instance_id="ins_other"))
    nothing_happened = await _nothing_happened(journey)
    own = await _tell(journey, clerk.event("user.created", user))

    assert_problem(foreign, 422, "validation_failed")
    assert nothing_happened
    assert own.status_code == 200
