"""Tests of `POST /internal/tokens/get`: who gets a token, how each refusal is answered, and what is recorded."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from services.user_management.enums import TokenOutcome
from services.user_management.tests.actors import TESTER
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions, only_row, read_outcomes

RECONNECT = "http://localhost:3000/connect/sandbox-static?scopes="


async def _grant_denied(scene: Connected) -> httpx.Response:
    key = await scene.journey.service_key("sandbox-strict", name="other")
    return await scene.journey.get_token(key, scene.user_id)


async def _reason_required(scene: Connected) -> httpx.Response:
    key = await scene.journey.service_key(name="auditor", reason_required=True)
    return await scene.journey.get_token(key, scene.user_id)


async def _unknown_provider(scene: Connected) -> httpx.Response:
    return await scene.journey.get_token(scene.key, scene.user_id, "myspace")


async def _user_not_found(scene: Connected) -> httpx.Response:
    return await scene.journey.get_token(scene.key, "user_nobody")


async def _user_inactive(scene: Connected) -> httpx.Response:
    await scene.journey.owner.execute("UPDATE users SET status = 'suspended' WHERE id = $1", scene.user_id)
    return await scene.get()


async def _not_connected(scene: Connected) -> httpx.Response:
    bob = await scene.journey.sign_up("bob@example.com")
    return await scene.journey.get_token(scene.key, bob.id)


async def _needs_reauth(scene: Connected) -> httpx.Response:
    await scene.set("status", "needs_reauth")
    await scene.set("status_reason", "grant_refused")
    return await scene.get(scopes=["calendar.read"])


async def _revoked(scene: Connected) -> httpx.Response:
    await scene.set("status", "revoked")
    await scene.set("status_reason", "user")
    return await scene.get()


async def _insufficient_scope(scene: Connected) -> httpx.Response:
    return await scene.get(scopes=["calendar.read", "mail.read", "calendar.write"])


async def _unauthenticated(scene: Connected) -> httpx.Response:
    return await scene.journey.get_token({"X-API-Key": f"ums_{'0' * 12}_{'0' * 64}"}, scene.user_id)


REFUSALS: dict[TokenOutcome, tuple[Callable[[Connected], Awaitable[httpx.Response]], int, dict[str, Any]]] = {
    TokenOutcome.UNAUTHENTICATED: (_unauthenticated, 401, {}),
    TokenOutcome.GRANT_DENIED: (_grant_denied, 403, {}),
    TokenOutcome.REASON_REQUIRED: (_reason_required, 422, {}),
    TokenOutcome.UNKNOWN_PROVIDER: (_unknown_provider, 404, {}),
    TokenOutcome.USER_NOT_FOUND: (_user_not_found, 404, {}),
    TokenOutcome.USER_INACTIVE: (_user_inactive, 403, {}),
    TokenOutcome.NOT_CONNECTED: (_not_connected, 404, {"reconnect_url": RECONNECT}),
    TokenOutcome.NEEDS_REAUTH: (
        _needs_reauth,
        409,
        {"reason": "grant_refused", "reconnect_url": f"{RECONNECT}calendar.read"},
    ),
    TokenOutcome.REVOKED: (_revoked, 409, {"reason": "user", "reconnect_url": RECONNECT}),
    TokenOutcome.INSUFFICIENT_SCOPE: (
        _insufficient_scope,
        403,
        {
            "missing_scopes": ["calendar.write", "mail.read"],
            "reconnect_url": f"{RECONNECT}calendar.read%20mail.read%20calendar.write",
        },
    ),
}
"""For each outcome that is a refusal: a function that brings it about, the status, and the members of the body beyond
those of every problem."""


def test_refusals_name_every_outcome_of_the_statement() -> None:
    assert set(REFUSALS) == set(TokenOutcome) - {TokenOutcome.GRANTED, TokenOutcome.STALE}


@pytest.mark.parametrize("outcome", REFUSALS)
async def test_refusal_is_typed_and_recorded(connected: Connected, outcome: TokenOutcome) -> None:
    arrange, status, members = REFUSALS[outcome]

    response = await arrange(connected)

    body = assert_problem(response, status, outcome.value)
    assert {name: body.get(name) for name in members} == members
    assert "access_token" not in body
    recorded = [] if outcome is TokenOutcome.UNAUTHENTICATED else [outcome.value]
    assert await read_outcomes(connected.journey) == recorded


async def test_record_of_a_read_says_who_what_when_and_why(connected: Connected) -> None:
    key = {**connected.key, "X-Request-ID": "nightly-7"}

    response = await connected.journey.get_token(key, connected.user_id, scopes=["email"], reason="nightly sync")

    assert response.status_code == 200, response.text
    row = await only_row(
        connected.journey,
        "SELECT r.*, c.name, now() - read_at < interval '1 minute' AS recent FROM token_reads r"
        " JOIN service_clients c ON c.id = r.client_id",
    )
    assert (row["name"], row["user_id"], row["provider"]) == ("calendar-sync", connected.user_id, "sandbox-static")
    assert (row["outcome"], row["scopes"], row["reason"]) == ("granted", '["email"]', "nightly sync")
    assert (row["request_id"], str(row["integration_id"])) == ("nightly-7", connected.integration_id)
    assert row["recent"]


@pytest.mark.parametrize("provider", ["sandbox-static", "myspace"])
async def test_reason_of_a_service_without_a_grant_is_not_kept(connected: Connected, provider: str) -> None:
    key = await connected.journey.service_key("sandbox-strict", name="other")

    await connected.journey.get_token(key, connected.user_id, provider, reason="call +1 555 0100 to keep your account")

    row = await only_row(connected.journey, "SELECT user_id, reason FROM token_reads")
    assert (row["user_id"], row["reason"]) == (connected.user_id, None)


async def test_reason_of_a_refusal_behind_the_grant_is_kept(connected: Connected) -> None:
    await connected.set("status", "needs_reauth")
    await connected.set("status_reason", "grant_refused")

    await connected.get(reason="nightly sync")

    row = await only_row(connected.journey, "SELECT outcome, reason FROM token_reads")
    assert (row["outcome"], row["reason"]) == ("needs_reauth", "nightly sync")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer ums_short_key"},
        {"Authorization": f"Basic ums_{'0' * 12}_{'0' * 64}"},
        {"X-API-Key": ""},
        {"X-API-Key": f"UMS_{'0' * 12}_{'0' * 64}"},
        {"X-API-Key": f"ums_{'0' * 12}_{'0' * 64}\u00e9".encode("latin-1").decode("latin-1")},
    ],
)
async def test_credential_that_is_no_key_is_refused_without_a_record(
    connected: Connected, headers: dict[str, str]
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    body = {"user_id": connected.user_id, "provider": "sandbox-static"}

    response = await connected.journey.client.post("/internal/tokens/get", headers=encoded, json=body)  # type: ignore[arg-type]  # bytes are what goes over the wire

    assert_problem(response, 401, "unauthenticated")
    assert await read_outcomes(connected.journey) == []


async def test_key_with_one_wrong_digit_is_refused(connected: Connected) -> None:
    key = connected.key["Authorization"]
    last = "0" if key[-1] != "0" else "1"

    response = await connected.journey.get_token({"Authorization": key[:-1] + last}, connected.user_id)

    assert_problem(response, 401, "unauthenticated")


async def test_session_token_does_not_open_the_internal_door(connected: Connected) -> None:
    response = await connected.journey.get_token(connected.headers, connected.user_id)

    assert_problem(response, 401, "unauthenticated")


async def test_key_in_its_own_header_is_accepted(connected: Connected) -> None:
    key = connected.key["Authorization"].removeprefix("Bearer ")

    response = await connected.journey.get_token({"X-API-Key": key}, connected.user_id)

    assert response.status_code == 200, response.text


async def test_two_credentials_are_refused(connected: Connected) -> None:
    key = connected.key["Authorization"].removeprefix("Bearer ")
    both = {"X-API-Key": key, **connected.key}
    body = {"user_id": connected.user_id, "provider": "sandbox-static"}

    one_in_each = await connected.journey.get_token(both, connected.user_id)
    twice = await connected.journey.client.post(
        "/internal/tokens/get", headers=[("X-API-Key", key), ("X-API-Key", key)], json=body
    )

    assert_problem(one_in_each, 401, "unauthenticated")
    assert_problem(twice, 401, "unauthenticated")


async def test_key_that_is_revoked_is_refused_by_the_very_next_call(connected: Connected) -> None:
    before = await connected.get()
    await connected.journey.container.service_clients.revoke_service(TESTER, "calendar-sync")

    after = await connected.get()

    assert before.status_code == 200
    assert_problem(after, 401, "unauthenticated")
    assert await read_outcomes(connected.journey) == ["granted"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE service_keys SET expires_at = now()",
        "UPDATE service_clients SET disabled_at = now()",
    ],
)
async def test_key_that_ran_out_or_whose_service_is_disabled_is_refused(connected: Connected, statement: str) -> None:
    await connected.journey.owner.execute(statement)

    response = await connected.get()

    assert_problem(response, 401, "unauthenticated")


async def test_grant_that_is_replaced_counts_from_the_next_call(connected: Connected) -> None:
    clients = connected.journey.container.service_clients
    await clients.grant(TESTER, "calendar-sync", "sandbox-static", scopes=["email"], reason_required=False)

    within = await connected.get(scopes=["email"])
    beyond = await connected.get(scopes=["email", "calendar.read"])

    assert within.status_code == 200
    assert_problem(beyond, 403, "grant_denied")


async def test_reason_satisfies_a_grant_that_demands_one(connected: Connected) -> None:
    key = await connected.journey.service_key(name="auditor", reason_required=True)

    response = await connected.journey.get_token(key, connected.user_id, reason="the user asked for it")
    blank = await connected.journey.get_token(key, connected.user_id, reason="   ")

    assert response.status_code == 200
    assert_problem(blank, 422, "validation_failed")


async def test_deleted_user_is_not_found(connected: Connected) -> None:
    await connected.journey.webhook("user.deleted", connected.journey.sandbox.clerk.delete_user(connected.user_id))

    response = await connected.get()

    assert_problem(response, 404, "user_not_found")


async def test_disconnected_connection_is_not_connected(connected: Connected) -> None:
    await connected.set("status", "disconnected")

    response = await connected.get()

    assert_problem(response, 404, "not_connected")


async def test_subject_of_the_default_issuer_stands_for_the_user(connected: Connected) -> None:
    insert = "INSERT INTO user_identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, now())"
    owner, issuer = connected.journey.owner, connected.journey.sandbox.clerk.issuer
    await owner.execute(insert, issuer, "user_alias", connected.user_id)
    await owner.execute(insert, "https://elsewhere.example", "user_foreign", connected.user_id)

    ours = await connected.journey.get_token(connected.key, "user_alias")
    foreign = await connected.journey.get_token(connected.key, "user_foreign")

    assert ours.status_code == 200
    assert_problem(foreign, 404, "user_not_found")
    assert await connected.journey.owner.fetchval("SELECT user_id FROM token_reads WHERE outcome = 'granted'") == (
        connected.user_id
    )


async def test_account_is_picked_by_id_or_email_and_is_the_primary_one_by_default(connected: Connected) -> None:
    journey = connected.journey
    ada = connected.person
    started = await journey.authorize(ada, scopes=["mail.read"])
    await journey.callback(await journey.consent(started["authorization_url"], account="Work@Example.com"))
    second = (await journey.confirm(ada, "sandbox-static", flow=journey.ticket(started))).json()

    by_default = await connected.get()
    by_id = await connected.get(account=second["provider_account_id"])
    by_email = await connected.get(account="work@example.COM", scopes=["mail.read"])
    unknown = await connected.get(account="nobody@example.com")

    assert by_default.json()["integration_id"] == connected.integration_id
    assert by_id.json()["integration_id"] == by_email.json()["integration_id"] == second["id"]
    assert by_id.json()["account"] == second["provider_account_id"]
    assert (await journey.userinfo(by_email.json()["access_token"])).json()["email"] == "Work@Example.com"
    assert_problem(unknown, 404, "not_connected")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"user_id": ""},
        {"user_id": "user_\x00"},
        {"user_id": "u" * 129},
        {"user_id": None},
        {"user_id": 7},
        {"provider": "Sandbox-Static"},
        {"provider": "../secrets"},
        {"scopes": "email"},
        {"scopes": ["two words"]},
        {"scopes": ['quo"te']},
        {"scopes": ["s"] * 65},
        {"min_ttl_seconds": 0},
        {"min_ttl_seconds": -300},
        {"min_ttl_seconds": 86_401},
        {"min_ttl_seconds": 1.5},
        {"reason": "line\nbreak"},
        {"reason": "r" * 201},
        {"account": "\x7f"},
        {"surprise": True},
    ],
)
async def test_body_with_an_unacceptable_field_names_it_and_echoes_nothing(
    connected: Connected, change: dict[str, Any]
) -> None:
    (name,) = change

    body = {"user_id": connected.user_id, "provider": "sandbox-static", **change}
    response = await connected.journey.client.post("/internal/tokens/get", headers=connected.key, json=body)

    errors = assert_problem(response, 422, "validation_failed")["details"]["errors"]
    assert {tuple(error["loc"][:2]) for error in errors} == {("body", name)}
    assert all(set(error) == {"loc", "msg", "type"} for error in errors)
    assert await read_outcomes(connected.journey) == []


@pytest.mark.parametrize("text", [r'"\ud800"', r'"a\udc00b"'])
async def test_body_with_half_a_surrogate_pair_is_refused(connected: Connected, text: str) -> None:
    raw = f'{{"user_id": {text}, "provider": "sandbox-static"}}'.encode()
    headers = {**connected.key, "Content-Type": "application/json"}

    response = await connected.journey.client.post("/internal/tokens/get", headers=headers, content=raw)

    assert response.status_code in (400, 422), response.text


async def test_token_without_an_end_is_handed_out_as_such(connected: Connected) -> None:
    await connected.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")

    response = await connected.get(min_ttl_seconds=86_400)

    assert response.status_code == 200, response.text
    assert response.json()["expires_at"] is response.json()["expires_in"] is None


async def test_read_changes_no_row_but_the_record(connected: Connected) -> None:
    before = await connected.row(), await audit_actions(connected.journey)

    await connected.get()

    assert (await connected.row(), await audit_actions(connected.journey)) == before
