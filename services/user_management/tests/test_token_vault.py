"""Tests of token reads with damaged rows and missing keys: a damaged row marks its own integration, an operator's
mistake marks none."""

import json
from collections.abc import AsyncIterator, Callable

import pytest

from services.user_management.services.vault_service import POISON_LIMIT_PER_MINUTE
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions, read_outcomes

pytestmark = pytest.mark.slow


def _flip(ciphertext: bytes, position: int) -> bytes:
    changed = bytearray(ciphertext)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "format": lambda row: _flip(row, 0),
    "key version": lambda row: _flip(row, 4),
    "nonce": lambda row: _flip(row, 5),
    "text": lambda row: _flip(row, 20),
    "tag": lambda row: _flip(row, -1),
    "truncated": lambda row: row[:-1],
    "header alone": lambda row: row[:17],
    "empty": lambda _row: b"",
    "longer": lambda row: row + b"\x00",
    "doubled": lambda row: row + row,
    "relabelled with another key version": lambda row: row[:1] + (2).to_bytes(4, "big") + row[5:],
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_token_costs_that_connection_alone(connected: Connected, damage: str) -> None:
    other = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    await connected.store("access", DAMAGES[damage](await connected.ciphertext("access")))

    response = await connected.get()

    body = assert_problem(response, 409, "needs_reauth")
    assert body["reason"] == "token_unreadable"
    assert body["reconnect_url"].startswith("http://localhost:3000/connect/")
    assert await read_outcomes(connected.journey) == ["granted", "needs_reauth"]
    row = await connected.row()
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "token_unreadable")
    assert (await audit_actions(connected.journey, connected.user_id))[-1] == "integration.needs_reauth"
    assert (await other.get()).status_code == 200


async def test_read_of_a_damaged_token_records_the_scopes_as_any_other_read_does(connected: Connected) -> None:
    assert (await connected.get(scopes=["openid", "email"])).status_code == 200
    await connected.store("access", DAMAGES["tag"](await connected.ciphertext("access")))

    assert_problem(await connected.get(scopes=["openid", "email"]), 409, "needs_reauth")

    rows = await connected.journey.owner.fetch("SELECT outcome, scopes FROM token_reads ORDER BY id")
    granted = [json.loads(row["scopes"]) for row in rows if row["outcome"] == "granted"]
    refused = [json.loads(row["scopes"]) for row in rows if row["outcome"] == "needs_reauth"]
    assert refused == granted[:1] == [["email", "openid"]]


async def test_token_moved_from_another_user_is_refused(connected: Connected) -> None:
    other = await Connected.at(connected.journey, email="bob@example.com", key=connected.key)
    await connected.store("access", await other.ciphertext("access"))

    response = await connected.get()

    assert assert_problem(response, 409, "needs_reauth")["reason"] == "token_unreadable"


async def test_refresh_token_moved_into_the_place_of_the_access_token_is_refused(connected: Connected) -> None:
    await connected.store("access", await connected.ciphertext("refresh"))

    response = await connected.get()

    assert assert_problem(response, 409, "needs_reauth")["reason"] == "token_unreadable"


async def test_damaged_refresh_token_is_never_sent_anywhere(connected: Connected) -> None:
    await connected.store("refresh", _flip(await connected.ciphertext("refresh"), -1))
    await connected.journey.age_tokens()

    response = await connected.get()

    assert assert_problem(response, 409, "needs_reauth")["reason"] == "token_unreadable"
    assert connected.calls() == 0


async def test_damage_is_mended_by_connecting_again(connected: Connected) -> None:
    await connected.store("access", b"")
    await connected.get()

    again = await connected.journey.connect(connected.person)
    response = await connected.get()

    assert again["id"] == connected.integration_id
    assert response.status_code == 200


async def test_damage_of_many_at_once_stops_the_marking(connected: Connected) -> None:
    journey = connected.journey
    emails = [f"user{number}@example.com" for number in range(POISON_LIMIT_PER_MINUTE + 1)]
    scenes = [connected, *[await Connected.at(journey, email=email, key=connected.key) for email in emails]]
    await journey.owner.execute("UPDATE encrypted_tokens SET ciphertext = '\\x00'")

    responses = [await scene.get() for scene in scenes]

    marked, kept = responses[:POISON_LIMIT_PER_MINUTE], responses[POISON_LIMIT_PER_MINUTE:]
    assert len(kept) == 2
    assert {assert_problem(response, 409, "needs_reauth")["reason"] for response in marked} == {"token_unreadable"}
    for response in kept:
        assert_problem(response, 503, "key_unavailable")
    assert [(await scene.row())["status"] for scene in scenes[POISON_LIMIT_PER_MINUTE:]] == ["active", "active"]


async def _move_to_missing_key(journey: Journey, kind: str) -> None:
    await journey.owner.execute(
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at)"
        " VALUES (9, 'decrypt_only', 'pbkdf2-sha256-600000', 'x', now())"
    )
    await journey.owner.execute("UPDATE encrypted_tokens SET key_version = 9 WHERE kind = $1", kind)


@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_key_version_that_this_process_lacks_touches_no_row(connected: Connected, kind: str) -> None:
    await _move_to_missing_key(connected.journey, kind)
    if kind == "refresh":
        await connected.journey.age_tokens()
    before = await connected.ciphertext("access"), await connected.ciphertext("refresh")

    responses = [await connected.get() for _ in range(4)]

    for response in responses:
        assert_problem(response, 503, "key_unavailable")
    assert (await connected.row())["status"] == "active"
    assert (await connected.ciphertext("access"), await connected.ciphertext("refresh")) == before
    assert connected.calls() == 0


@pytest.fixture
async def missing_active_key(connected: Connected) -> AsyncIterator[None]:
    """Make a key version that this process does not hold the active one."""
    owner = connected.journey.owner
    await owner.execute("UPDATE encryption_keys SET state = 'decrypt_only'")
    await owner.execute(
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at)"
        " VALUES (9, 'active', 'pbkdf2-sha256-600000', 'x', now())"
    )
    yield
    await owner.execute("DELETE FROM encryption_keys WHERE version = 9")


@pytest.mark.usefixtures("missing_active_key")
async def test_active_key_that_this_process_lacks_takes_away_no_token_that_still_lives(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=200)

    soft = await connected.get()
    hard = await connected.get(min_ttl_seconds=250)

    assert soft.status_code == 200, soft.text
    assert 0 < soft.json()["expires_in"] <= 200
    assert_problem(hard, 503, "key_unavailable")
    assert connected.calls() == 0


@pytest.mark.usefixtures("missing_active_key")
async def test_active_key_that_this_process_lacks_stops_a_refresh_before_it_is_sent(connected: Connected) -> None:
    await connected.journey.age_tokens()

    response = await connected.get()

    assert_problem(response, 503, "key_unavailable")
    assert connected.calls() == 0
    assert (await connected.row())["status"] == "active"


async def test_answers_never_hold_a_refresh_token_or_a_ciphertext(connected: Connected) -> None:
    response = await connected.get()

    assert set(response.json()) == {
        "access_token",
        "token_type",
        "expires_at",
        "expires_in",
        "scopes",
        "provider",
        "account",
        "integration_id",
        "refreshed",
    }
    assert "sbx-rt-" not in json.dumps(response.json())
    assert response.headers["cache-control"] == "no-store"
