"""Tests of a connect attempt from `authorize` to the integration: it works once, only for the user who started it, and
no code is exchanged before that user confirms."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from services.devstack.main_job import Person, expect, flow_ticket
from services.sandbox.faults import Fault, FaultAction
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem, audit_actions, only_row

PROVIDER = "sandbox-static"
PATH = f"/users/me/integrations/{PROVIDER}"


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def _exchanges(journey: Journey) -> int:
    return journey.sandbox.ledger.count(party="oidc:static", operation="token.exchange")


UNKNOWN = f"01890000-0000-7000-8000-000000000000.{'A' * 43}"


async def _connections(journey: Journey) -> int:
    count: int = await journey.owner.fetchval("SELECT count(*) FROM integrations")
    return count


async def _returned(journey: Journey, ada: Person) -> tuple[str, dict[str, str]]:
    """Bring a connect attempt as far as the provider's return. Returns its ticket, and the parameters of the return."""
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)
    return flow_ticket(expect(await journey.callback(location), 303)), _query(location)


async def test_authorization_url_carries_what_the_provider_needs_and_no_secret(journey: Journey) -> None:
    ada = await journey.sign_up()

    started = await journey.authorize(ada, PROVIDER, scopes=["calendar.read"], login_hint="ada@work.example")

    query = _query(started["authorization_url"])
    assert started["authorization_url"].startswith("http://sandbox.test/oidc/static/authorize?")
    assert query["redirect_uri"] == "http://testserver/oauth/callback/sandbox-static"
    assert (query["response_type"], query["client_id"], query["prompt"]) == ("code", "sandbox-client", "consent")
    assert set(query["scope"].split()) == {"openid", "email", "offline_access", "calendar.read"}
    assert (query["code_challenge_method"], len(query["code_challenge"])) == ("S256", 43)
    assert (query["login_hint"], len(query["state"])) == ("ada@work.example", 43)
    row = await only_row(journey, "SELECT *, expires_at - created_at AS life FROM oauth_flows")
    assert row["life"].total_seconds() == 600
    assert query["state"].encode() not in row["state_hash"]
    assert "sbx-cs" not in started["authorization_url"]


async def test_authorize_twice_gives_two_attempts(journey: Journey) -> None:
    ada = await journey.sign_up()

    first, second = [await journey.authorize(ada, PROVIDER) for _ in range(2)]

    states = {_query(started["authorization_url"])["state"] for started in (first, second)}
    challenges = {_query(started["authorization_url"])["code_challenge"] for started in (first, second)}
    assert first["flow_id"] != second["flow_id"]
    assert len(states) == len(challenges) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": ["calendar.destroy"]},
        {"scopes": ["openid email"]},
        {"scopes": "openid"},
        {"scopes": ["s"] * 65},
        {"return_url": "https://evil.example/connected"},
        {"return_url": "http://localhost:3000/connected/"},
        {"return_url": "http://localhost:3000/connected?x=1"},
        {"return_url": "//localhost:3000/connected"},
        {"login_hint": "line\nbreak"},
        {"redirect_uri": "https://evil.example"},
    ],
)
async def test_authorize_refuses_what_is_not_offered(journey: Journey, body: dict[str, Any]) -> None:
    ada = await journey.sign_up()

    response = await journey.client.post(f"{PATH}/authorize", headers=ada.headers, json=body)

    assert_problem(response, 422, "validation_failed")
    assert await journey.owner.fetchval("SELECT count(*) FROM oauth_flows") == 0


async def test_authorize_of_an_unknown_provider_is_not_found(journey: Journey) -> None:
    ada = await journey.sign_up()

    for provider in ("myspace", "google"):
        path = f"/users/me/integrations/{provider}/authorize"
        assert_problem(await journey.client.post(path, headers=ada.headers, json={}), 404, "unknown_provider")


async def test_return_keeps_the_code_sealed_and_exchanges_nothing(journey: Journey) -> None:
    ada = await journey.sign_up()

    ticket, returned = await _returned(journey, ada)

    row = await only_row(journey, "SELECT * FROM oauth_flows")
    assert (row["status"], row["error"]) == ("returned", None)
    assert returned["code"].encode() not in row["code_ciphertext"]
    assert _exchanges(journey) == await _connections(journey) == 0
    assert ticket.startswith(f"{row['id']}.")


async def test_return_goes_to_the_product_with_nothing_but_the_flow(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER, return_url="http://localhost:3000/connected")

    response = await journey.callback(await journey.consent(started["authorization_url"], account=ada.email))

    assert response.headers["location"] == f"http://localhost:3000/connected?flow={journey.ticket(started)}"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_return_with_an_unknown_used_or_expired_state_is_not_found(journey: Journey) -> None:
    ada = await journey.sign_up()
    _, returned = await _returned(journey, ada)
    expired = _query((await journey.authorize(ada, PROVIDER))["authorization_url"])["state"]
    await journey.owner.execute("UPDATE oauth_flows SET expires_at = now() WHERE status = 'pending'")
    callback = f"/oauth/callback/{PROVIDER}"

    for state in (returned["state"], expired, "unknown", "", "\u00e9"):
        response = await journey.client.get(callback, params={"state": state, "code": "c"})
        assert_problem(response, 404, "flow_not_found")
    assert_problem(await journey.client.get(callback, params={"code": "c"}), 422, "validation_failed")
    assert_problem(
        await journey.client.get(callback, params={"state": "s" * 257, "code": "c"}), 422, "validation_failed"
    )


async def test_return_under_another_providers_name_is_not_found(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)

    mixed_up = await journey.callback(location.replace("sandbox-static", "sandbox-strict"))
    unknown = await journey.callback(location.replace("sandbox-static", "myspace"))
    right = await journey.callback(location)

    assert_problem(mixed_up, 404, "flow_not_found")
    assert_problem(unknown, 404, "unknown_provider")
    assert right.status_code == 303


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "http://sandbox.test/oidc/strict"}, "issuer_mismatch"),
        ({"code": None}, "no_code"),
        ({"code": ""}, "no_code"),
        ({"code": None, "error": "access_denied"}, "access_denied"),
        ({"error": "server_error"}, "server_error"),
    ],
)
async def test_return_that_cannot_be_used_says_why_and_ends_the_attempt(
    journey: Journey, change: dict[str, str | None], reason: str
) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)
    parameters = {name: value for name, value in {**_query(location), **change}.items() if value is not None}

    returned = await journey.client.get(f"/oauth/callback/{PROVIDER}", params=parameters)
    confirmed = await journey.confirm(ada, PROVIDER, flow=journey.ticket(started))

    assert parse_qs(urlsplit(returned.headers["location"]).query)["error"] == [reason]
    assert assert_problem(confirmed, 409, "flow_refused")["reason"] == reason
    assert _exchanges(journey) == await _connections(journey) == 0


async def test_return_without_an_issuer_is_accepted(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)
    parameters = {name: value for name, value in _query(location).items() if name != "iss"}

    returned = await journey.client.get(f"/oauth/callback/{PROVIDER}?{urlencode(parameters)}")

    assert returned.status_code == 303
    assert (await journey.confirm(ada, PROVIDER, flow=journey.ticket(started))).status_code == 201


@pytest.mark.parametrize("error", ["\x00", "x" * 2048, "<script>alert(1)</script>", "\u202e\u0007", "a&flow=other"])
async def test_return_with_a_hostile_error_is_told_on_safely(journey: Journey, error: str) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    state = _query(started["authorization_url"])["state"]

    returned = await journey.client.get(f"/oauth/callback/{PROVIDER}", params={"state": state, "error": error})

    assert returned.status_code == 303, returned.text
    location = urlsplit(returned.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == "http://localhost:3000/connected"
    assert parse_qs(location.query)["flow"] == [journey.ticket(started)]
    assert parse_qs(location.query)["error"] == ["unknown_error"]


async def test_denied_consent_connects_nothing(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)

    await journey.callback(await journey.consent(started["authorization_url"], account=ada.email, decision="deny"))
    response = await journey.confirm(ada, PROVIDER, flow=journey.ticket(started))

    assert assert_problem(response, 409, "flow_refused")["reason"] == "access_denied"
    assert await _connections(journey) == 0


async def test_confirm_works_once(journey: Journey) -> None:
    ada = await journey.sign_up()
    ticket, _ = await _returned(journey, ada)

    first = await journey.confirm(ada, PROVIDER, flow=ticket)
    second = await journey.confirm(ada, PROVIDER, flow=ticket)

    assert first.status_code == 201
    assert_problem(second, 404, "flow_not_found")
    assert _exchanges(journey) == 1
    row = await only_row(journey, "SELECT * FROM oauth_flows")
    assert (row["status"], row["code_ciphertext"]) == ("consumed", None)


async def test_confirm_fifty_times_at_once_exchanges_once(journey: Journey) -> None:
    ada = await journey.sign_up()
    ticket, _ = await _returned(journey, ada)

    responses = await asyncio.gather(*(journey.confirm(ada, PROVIDER, flow=ticket) for _ in range(50)))

    assert sorted(response.status_code for response in responses) == [201] + [404] * 49
    assert _exchanges(journey) == await _connections(journey) == 1


async def test_confirm_by_code_and_state_serves_a_front_end_that_was_returned_to(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    returned = _query(await journey.consent(started["authorization_url"], account=ada.email))

    first = await journey.confirm(ada, PROVIDER, code=returned["code"], state=returned["state"])
    second = await journey.confirm(ada, PROVIDER, code=returned["code"], state=returned["state"])

    assert first.status_code == 201, first.text
    assert_problem(second, 404, "flow_not_found")
    assert _exchanges(journey) == 1


@pytest.mark.parametrize("came_back_to", ["our callback", "the front end"])
async def test_confirm_by_somebody_else_is_not_found_and_uses_nothing_up(journey: Journey, came_back_to: str) -> None:
    mallory = await journey.sign_up("mallory@example.com")
    victim = await journey.sign_up("victim@example.com")
    started = await journey.authorize(mallory, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=victim.email)
    returned = _query(location)
    way: dict[str, Any] = {"code": returned["code"], "state": returned["state"]}
    if came_back_to == "our callback":
        await journey.callback(location)
        way = {"flow": journey.ticket(started)}

    response = await journey.confirm(victim, PROVIDER, **way)

    assert_problem(response, 404, "flow_not_found")
    assert _exchanges(journey) == await _connections(journey) == 0
    assert (await only_row(journey, "SELECT status FROM oauth_flows"))["status"] in ("pending", "returned")


async def test_confirm_too_early_too_late_or_elsewhere_is_not_found(journey: Journey) -> None:
    ada = await journey.sign_up()
    pending = journey.ticket(await journey.authorize(ada, PROVIDER))
    returned, _ = await _returned(journey, ada)

    early = await journey.confirm(ada, PROVIDER, flow=pending)
    elsewhere = await journey.confirm(ada, "sandbox-strict", flow=returned)
    await journey.owner.execute("UPDATE oauth_flows SET expires_at = now()")
    late = await journey.confirm(ada, PROVIDER, flow=returned)
    unknown = await journey.confirm(ada, PROVIDER, flow=UNKNOWN)

    for response in (early, elsewhere, late, unknown):
        assert_problem(response, 404, "flow_not_found")
    assert _exchanges(journey) == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"flow": "no-ticket"},
        {"flow": UNKNOWN.partition(".")[0]},
        {"code": "c"},
        {"state": "s"},
        {"code": "c", "state": "s", "flow": UNKNOWN},
        {"code": "c", "flow": UNKNOWN},
        {"code": "\u00e9", "state": "s"},
        {"code": "c", "state": "s s"},
        {"code": "c" * 2049, "state": "s"},
        [],
        "flow",
        None,
    ],
)
async def test_confirm_refuses_a_body_that_names_no_one_way(journey: Journey, body: Any) -> None:
    ada = await journey.sign_up()

    response = await journey.client.post(PATH, headers=ada.headers, json=body)

    if body is None:
        assert_problem(response, 415, "unsupported_media_type")
    else:
        assert_problem(response, 422, "validation_failed")
        assert "input" not in response.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "action", "fields", "status", "code"),
    [
        ("token.exchange", "status", {"status": 500}, 503, "provider_unavailable"),
        ("token.exchange", "status", {"status": 429}, 503, "provider_unavailable"),
        ("token.exchange", "html", {}, 502, "provider_answer_invalid"),
        ("token.exchange", "reset", {}, 503, "provider_unavailable"),
        ("token.exchange", "reset_mid_body", {}, 503, "provider_unavailable"),
        ("token.exchange", "truncated_json", {}, 502, "provider_answer_invalid"),
        ("token.exchange", "oversize", {}, 502, "provider_answer_invalid"),
        ("token.exchange", "error", {"error": "invalid_grant"}, 409, "flow_refused"),
        ("token.exchange", "error", {"error": "invalid_client"}, 502, "provider_misconfigured"),
        ("userinfo", "status", {"status": 200, "body": {"email": "x@example.com"}}, 502, "provider_answer_invalid"),
        ("userinfo", "status", {"status": 200, "body": {"sub": ["7"]}}, 502, "provider_answer_invalid"),
        ("userinfo", "html", {}, 502, "provider_answer_invalid"),
        ("userinfo", "status", {"status": 500, "times": 3}, 503, "provider_unavailable"),
    ],
)
async def test_fault_during_the_exchange_is_told_and_leaves_no_connection(
    journey: Journey, operation: str, action: FaultAction, fields: dict[str, Any], status: int, code: str
) -> None:
    ada = await journey.sign_up()
    ticket, _ = await _returned(journey, ada)
    journey.sandbox.faults.add(Fault(party="oidc:static", operation=operation, action=action, **fields))

    response = await journey.confirm(ada, PROVIDER, flow=ticket)
    again = await journey.confirm(ada, PROVIDER, flow=ticket)

    assert_problem(response, status, code)
    assert_problem(again, 404, "flow_not_found")
    assert await _connections(journey) == 0
    assert (await audit_actions(journey, ada.id))[-1] == "integration.connect_confirmed"
    assert (await journey.connect(ada, PROVIDER))["status"] == "active"


async def test_exchange_that_the_provider_puts_off_says_until_when(journey: Journey) -> None:
    ada = await journey.sign_up()
    ticket, _ = await _returned(journey, ada)
    wish = {"Retry-After": "900"}
    journey.sandbox.faults.add(
        Fault(party="oidc:static", operation="token.exchange", action="status", status=429, headers=wish)
    )

    response = await journey.confirm(ada, PROVIDER, flow=ticket)

    assert_problem(response, 503, "provider_unavailable")
    assert response.headers["Retry-After"] == "900"


async def test_user_who_is_suspended_during_consent_connects_nothing(journey: Journey) -> None:
    ada = await journey.sign_up()
    ticket, _ = await _returned(journey, ada)
    await journey.webhook("user.updated", journey.sandbox.clerk.ban_user(ada.id))

    response = await journey.confirm(ada, PROVIDER, flow=ticket)

    assert_problem(response, 403, "user_inactive")
    assert _exchanges(journey) == 0
