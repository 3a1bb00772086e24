"""Tests of signed webhook bodies that are not what Clerk sends: they are refused, kept with an error, or applied
without the fields that cannot be stored."""

import json
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from services.sandbox.clerk.webhooks import encode_event
from services.user_management.middleware.body_limit import MAX_BODY_BYTES
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem, only_row


async def _tell(journey: Journey, body: bytes) -> httpx.Response:
    headers = journey.sandbox.clerk.sign(body) | {"content-type": "application/json"}
    return await journey.client.post("/webhooks/clerk", headers=headers, content=body)


async def _stored(journey: Journey) -> int:
    count: int = await journey.owner.fetchval("SELECT count(*) FROM webhook_events")
    return count


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"\xff",
        b'{"type": "a", "type": "b"}',
        b"[" * 10_000,
        b'{"type": "x", "timestamp": 1, "data": {"n": 1e400}}',
        b'{"type": "x", "timestamp": 1, "data": {"n": ' + b"9" * 5000 + b"}}",
    ],
)
async def test_body_that_is_not_strict_json_is_refused(journey: Journey, body: bytes) -> None:
    response = await _tell(journey, body)

    assert_problem(response, 400, "invalid_json")
    assert await _stored(journey) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"type": None},
        {"type": ""},
        {"type": "t" * 101},
        {"timestamp": None},
        {"timestamp": "yesterday"},
        {"timestamp": 10**400},
        {"timestamp": True},
        {"data": None},
        {"data": []},
    ],
)
async def test_envelope_that_is_no_event_is_refused(journey: Journey, change: dict[str, Any]) -> None:
    event = {**journey.sandbox.clerk.event("user.created", journey.sandbox.clerk.create_user()), **change}

    response = await _tell(journey, encode_event(event))

    assert_problem(response, 422, "validation_failed")
    assert await _stored(journey) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": "user_" + "x" * 124},
        {"updated_at": None},
        {"updated_at": "2026-01-01T00:00:00"},
        {"updated_at": 10**400},
        {"updated_at": -(10**17)},
        {"email_addresses": [{"id": "idn_1"}]},
        {"email_addresses": "ada@example.com"},
        {"banned": "perhaps"},
        {"first_name": {"given": "Ada"}},
    ],
)
async def test_user_that_cannot_be_read_is_kept_with_the_names_of_the_fields(
    journey: Journey, change: dict[str, Any]
) -> None:
    user = journey.sandbox.clerk.create_user(email="ada@example.com") | change

    response = await _tell(journey, encode_event(journey.sandbox.clerk.event("user.created", user)))

    assert response.json() == {"duplicate": False, "applied": False}
    event = await only_row(journey, "SELECT error, applied_at FROM webhook_events")
    assert event["applied_at"] is None
    assert next(iter(change)) in event["error"]
    assert "ada@example.com" not in event["error"]
    assert await journey.owner.fetchval("SELECT count(*) FROM users") == 0


OUT_OF_BOUNDS: dict[str, tuple[str, Any]] = {
    "email": ("email_addresses", [{"id": "idn_1", "email_address": "planted" * 14_000 + "@example.com"}]),
    "email by one": ("email_addresses", [{"id": "idn_1", "email_address": "planted".ljust(243, "x") + "@example.com"}]),
    "first_name": ("first_name", "planted" * 14_000),
    "last_name": ("last_name", "planted".ljust(257, "x")),
    "phone": ("phone_numbers", [{"id": "idn_2", "phone_number": "+41 planted".ljust(33, "4")}]),
    "profile_image_url": ("image_url", "https://img.example/planted".ljust(2049, "x")),
    "profile_image_url of a script": ("image_url", "javascript:planted()"),
}


@pytest.mark.parametrize("case", OUT_OF_BOUNDS)
async def test_field_that_is_out_of_bounds_is_dropped_and_the_rest_is_applied(journey: Journey, case: str) -> None:
    member, value = OUT_OF_BOUNDS[case]
    field = case.partition(" ")[0]
    good = {
        "first_name": "Ada",
        "last_name": "Lovelace",
        "image_url": "https://img.example/ada",
        "primary_email_address_id": "idn_1",
        "email_addresses": [{"id": "idn_1", "email_address": "ada@example.com", "verification": None}],
        "primary_phone_number_id": "idn_2",
        "phone_numbers": [{"id": "idn_2", "phone_number": "+41446681800"}],
    }
    user = journey.sandbox.clerk.create_user() | good | {member: value}

    with capture_logs() as lines:
        response = await _tell(journey, encode_event(journey.sandbox.clerk.event("user.created", user)))

    assert response.json() == {"duplicate": False, "applied": True}
    row = dict(await only_row(journey, "SELECT email, first_name, last_name, phone, profile_image_url FROM users"))
    assert {name for name, stored in row.items() if stored is None} == {field}
    dropped = [line for line in lines if line["event"] == "upstream_field.dropped"]
    assert [(line["field"], line["subject"]) for line in dropped] == [(field, user["id"])]
    assert "planted" not in str(lines)


async def test_longest_fields_that_are_kept_are_stored_and_found(journey: Journey) -> None:
    longest = {
        "first_name": "\ufdfa" * 256,
        "last_name": "".join(chr(0x4E00 + number) for number in range(256)),
        "image_url": "https://img.example/".ljust(2048, "x"),
        "email_addresses": [{"id": "idn_1", "email_address": "\u0130" * 242 + "@example.com", "verification": None}],
        "primary_email_address_id": "idn_1",
    }
    user = journey.sandbox.clerk.create_user() | longest

    response = await _tell(journey, encode_event(journey.sandbox.clerk.event("user.created", user)))

    assert response.json() == {"duplicate": False, "applied": True}
    row = await only_row(journey, "SELECT email, first_name, last_name, profile_image_url FROM users")
    assert {len(value) for value in row.values()} == {254, 256, 2048}


async def test_event_as_large_as_a_body_may_be_is_kept_and_a_larger_one_is_not(journey: Journey) -> None:
    event = journey.sandbox.clerk.event("user.created", journey.sandbox.clerk.create_user())
    event["data"]["unsafe_metadata"] = {"note": ""}
    event["data"]["unsafe_metadata"]["note"] = "x" * (MAX_BODY_BYTES - len(encode_event(event)))
    largest = encode_event(event)

    accepted = await _tell(journey, largest)
    refused = await _tell(journey, largest + b" ")

    assert (len(largest), accepted.json()["applied"]) == (MAX_BODY_BYTES, True)
    assert_problem(refused, 413, "body_too_large")
    assert await _stored(journey) == 1


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
@pytest.mark.parametrize("place", ["first_name", "last_name", "unsafe_metadata"])
async def test_character_that_postgres_cannot_store_is_replaced_not_fatal(
    journey: Journey, place: str, text: str
) -> None:
    value: Any = {"note": text, text: [text]} if place == "unsafe_metadata" else text
    user = journey.sandbox.clerk.create_user(email="ada@example.com") | {place: value}
    body = _escaped(journey.sandbox.clerk.event("user.created", user))

    response = await _tell(journey, body)

    assert response.status_code == 200, response.text
    row = await only_row(journey, "SELECT * FROM users")
    assert (row["email"], row["status"]) == ("ada@example.com", "active")


def _escaped(event: dict[str, Any]) -> bytes:

    return json.dumps(event).encode()


@pytest.mark.parametrize("in_seconds", [True, False])
async def test_time_is_read_in_seconds_and_in_milliseconds(journey: Journey, *, in_seconds: bool) -> None:
    user = journey.sandbox.clerk.create_user() | {"updated_at": 1_700_000_000 * (1 if in_seconds else 1000)}

    await _tell(journey, encode_event(journey.sandbox.clerk.event("user.created", user)))

    row = await only_row(journey, "SELECT upstream_updated_at FROM users")
    assert row["upstream_updated_at"].timestamp() == 1_700_000_000


@pytest.mark.parametrize("user_id", ["me", "User_1", "usr_1", "user_" + "x" * 59, "user_\u00e9"])
async def test_user_whose_id_could_not_be_ours_is_stored_and_creates_nobody(journey: Journey, user_id: str) -> None:
    user = journey.sandbox.clerk.create_user(user_id=user_id, email="odd@example.com")

    response = await _tell(journey, encode_event(journey.sandbox.clerk.event("user.created", user)))

    assert response.status_code == 200, response.text
    assert await _stored(journey) == 1
    assert await journey.owner.fetchval("SELECT count(*) FROM users") == 0
