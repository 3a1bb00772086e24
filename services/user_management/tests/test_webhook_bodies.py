"""Signed bodies that are not what Clerk sends: an answer for each, and never a half-told story."""

import json
from typing import Any

import httpx
import pytest

from services.sandbox.clerk.webhooks import encode_event
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
