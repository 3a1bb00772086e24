"""Tests of the authorization requests that are sent to a provider (scopes, consent, redirect URI), of the checks of its
return (state, issuer) and of its first tokens, and of the limits on a user's open connect attempts."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from services.devstack.main_job import Person
from services.sandbox.faults import Fault, FaultAction
from services.user_management.container import Container
from services.user_management.tests.integration_scenes import (
    PROVIDER,
    WORK,
    connect_account,
    offering,
    returned_flow,
    stored_rows,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem, only_row

REQUIRED = {"openid", "email", "offline_access"}
FRONT_END = "http://localhost:3000/oauth/callback"
CONSENT = '[consent_parameters]\nprompt = "select_account consent"'
JWKS = "http://sandbox.test/oidc/static/jwks.json"


@pytest.fixture
def front_end(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow the provider to return to the front end directly (FRONTEND_REDIRECT_URIS)."""
    policy = replace(container.integrations.connect_flows.policy, redirect_uris=(FRONT_END,))
    monkeypatch.setattr(container.integrations.connect_flows, "policy", policy)


@pytest.fixture
def asking(container: Container, tmp_path: Path) -> Iterator[None]:
    """Make the provider show its consent page only when the authorization request asks for that."""
    with offering(container, tmp_path, tables=CONSENT, without=["prompt"]):
        yield


@pytest.fixture
def with_nonce(container: Container, tmp_path: Path) -> Iterator[None]:
    """Make the provider one whose ID token must repeat the nonce."""
    with offering(container, tmp_path, keys=f'nonce = true\njwks_uri = "{JWKS}"'):
        yield


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


async def _asked(journey: Journey, person: Person, **body: Any) -> dict[str, str]:
    """Start a connect attempt, and return the parameters of its authorization request."""
    return _query((await journey.authorize(person, PROVIDER, **body))["authorization_url"])


async def _scopes(journey: Journey, person: Person, **body: Any) -> set[str]:
    return set((await _asked(journey, person, **body))["scope"].split())


async def test_scopes_of_a_first_connect_are_required_and_chosen(journey: Journey) -> None:
    ada = await journey.sign_up()

    assert await _scopes(journey, ada) == REQUIRED
    assert await _scopes(journey, ada, scopes=["mail.read", "mail.read", "email"]) == REQUIRED | {"mail.read"}


async def test_scopes_of_a_connection_are_asked_for_again_with_the_new_ones(connected: Connected) -> None:
    journey, ada = connected.journey, connected.person

    assert await _scopes(journey, ada) == REQUIRED | {"calendar.read"}
    assert await _scopes(journey, ada, scopes=["mail.read"]) == REQUIRED | {"calendar.read", "mail.read"}


async def test_scopes_come_from_the_account_that_is_addressed(connected: Connected) -> None:
    journey, ada = connected.journey, connected.person
    await connect_account(journey, ada, WORK, new_account=True, scopes=["calendar.write"])

    assert await _scopes(journey, ada) == REQUIRED | {"calendar.read"}
    assert await _scopes(journey, ada, account=WORK) == REQUIRED | {"calendar.write"}
    assert await _scopes(journey, ada, new_account=True) == REQUIRED


async def test_account_that_is_not_connected_cannot_be_renewed(connected: Connected) -> None:
    path = f"/users/me/integrations/{connected.provider}/authorize"

    response = await connected.journey.client.post(path, headers=connected.headers, json={"account": WORK})

    assert_problem(response, 404, "not_connected")
    assert await connected.journey.owner.fetchval("SELECT count(*) FROM oauth_flows WHERE status = 'pending'") == 0


async def test_scope_that_the_provider_no_longer_offers_is_not_asked_for_again(connected: Connected) -> None:
    await connected.set("granted_scopes", '["openid", "email", "offline_access", "retired.read"]')

    assert await _scopes(connected.journey, connected.person) == REQUIRED


async def test_login_hint_is_the_addressed_accounts_unless_one_is_given(connected: Connected) -> None:
    journey, ada = connected.journey, connected.person
    await connect_account(journey, ada, WORK, new_account=True)

    assert (await _asked(journey, ada))["login_hint"] == ada.email
    assert (await _asked(journey, ada, account=WORK))["login_hint"] == WORK
    assert (await _asked(journey, ada, account=WORK, login_hint="x@example.com"))["login_hint"] == "x@example.com"
    assert "login_hint" not in await _asked(journey, ada, new_account=True)


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": ["calendar.destroy"]},
        {"scopes": ["CALENDAR.READ"]},
        {"new_account": True, "account": WORK},
        {"new_account": "maybe"},
        {"account": ""},
    ],
)
async def test_request_that_makes_no_sense_is_refused(connected: Connected, body: dict[str, Any]) -> None:
    path = f"/users/me/integrations/{PROVIDER}/authorize"

    response = await connected.journey.client.post(path, headers=connected.headers, json=body)

    assert_problem(response, 422, "validation_failed")


async def test_alias_of_a_scope_is_asked_for_by_its_name(journey: Journey, tmp_path: Path) -> None:
    ada = await journey.sign_up()
    aliases = '[scope_aliases]\n"https://scopes.example.com/mail" = "mail.read"'

    with offering(journey.container, tmp_path, tables=aliases):
        scopes = await _scopes(journey, ada, scopes=["https://scopes.example.com/mail"])

    assert scopes == REQUIRED | {"mail.read"}


@pytest.mark.usefixtures("asking")
async def test_consent_is_asked_for_only_where_no_usable_refresh_token_covers_the_scopes(connected: Connected) -> None:
    journey, ada = connected.journey, connected.person

    async def asked(**body: Any) -> bool:
        return "prompt" in await _asked(journey, ada, **body)

    assert await asked() is False
    assert await asked(scopes=["calendar.read"]) is False
    assert await asked(scopes=["mail.read"]) is True
    assert await asked(new_account=True) is True
    await connected.set("status", "degraded")
    assert await asked() is False
    for dead in ("needs_reauth", "revoked", "disconnected"):
        await connected.set("status", dead)
        assert await asked() is True
    await connected.set("status", "active")
    await journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    assert await asked() is True


@pytest.mark.parametrize("refresh", ["grace", "strict"])
async def test_consent_is_always_asked_for_where_a_refresh_token_is_used_once(
    connected: Connected, container: Container, tmp_path: Path, refresh: str
) -> None:
    kind = f'refresh = "{refresh}"'

    with offering(container, tmp_path, keys=kind, tables=CONSENT, without=["prompt", "refresh"]):
        asked = await _asked(connected.journey, connected.person)

    assert "prompt" in asked


@pytest.mark.usefixtures("asking")
async def test_first_connect_asks_for_consent(journey: Journey) -> None:
    assert "prompt" in await _asked(journey, await journey.sign_up())


@pytest.mark.usefixtures("front_end")
@pytest.mark.parametrize(
    "redirect_uri",
    [
        f"{FRONT_END}/",
        FRONT_END.replace("callback", "Callback"),
        FRONT_END.upper(),
        f"{FRONT_END}?next=/",
        f"{FRONT_END}#",
        FRONT_END.replace("localhost", "evil.localhost"),
        FRONT_END.replace("localhost", "localhost.evil.example"),
        FRONT_END.replace("localhost:3000", "localhost:3001"),
        FRONT_END.replace("http://", "https://"),
        FRONT_END.replace("http://", "http://user@"),
        FRONT_END.replace("/oauth", "/x/../oauth"),
        f" {FRONT_END}",
        "",
    ],
)
async def test_redirect_uri_must_be_exactly_an_allowed_one(journey: Journey, redirect_uri: str) -> None:
    ada = await journey.sign_up()
    path = f"/users/me/integrations/{PROVIDER}/authorize"

    response = await journey.client.post(path, headers=ada.headers, json={"redirect_uri": redirect_uri})

    assert_problem(response, 422, "validation_failed")
    assert await journey.owner.fetchval("SELECT count(*) FROM oauth_flows") == 0


async def _returned_to_front_end(journey: Journey, person: Person) -> dict[str, str]:
    """Authorize, and consent at the provider. Returns the parameters with which it sends the browser to the front
    end."""
    started = await journey.authorize(person, PROVIDER, redirect_uri=FRONT_END)
    assert _query(started["authorization_url"])["redirect_uri"] == FRONT_END
    location = await journey.consent(started["authorization_url"], account=person.email)
    assert location.startswith(f"{FRONT_END}?")
    return _query(location)


@pytest.mark.usefixtures("front_end")
async def test_front_end_that_is_returned_to_confirms_with_code_state_and_issuer(journey: Journey) -> None:
    ada = await journey.sign_up()
    returned = await _returned_to_front_end(journey, ada)

    response = await journey.confirm(ada, PROVIDER, **returned)

    assert response.status_code == 201, response.text
    assert set(returned) == {"code", "state", "iss"}
    assert (await journey.get_token(await journey.service_key(), ada.id)).status_code == 200


@pytest.mark.usefixtures("front_end")
@pytest.mark.parametrize(
    ("answers_iss", "issuer", "refusal"),
    [
        (True, None, "issuer_missing"),
        (True, "http://sandbox.test/oidc/strict", "issuer_mismatch"),
        (True, "http://sandbox.test/oidc/static/", "issuer_mismatch"),
        (False, "http://sandbox.test/oidc/strict", "issuer_mismatch"),
        (False, None, None),
        (True, "http://sandbox.test/oidc/static", None),
    ],
)
async def test_issuer_of_a_return_is_checked_before_the_code_is_exchanged(
    journey: Journey, tmp_path: Path, *, answers_iss: bool, issuer: str | None, refusal: str | None
) -> None:
    ada = await journey.sign_up()
    with offering(journey.container, tmp_path, keys=f"answers_iss = {str(answers_iss).lower()}"):
        returned = await _returned_to_front_end(journey, ada)
        way = {"code": returned["code"], "state": returned["state"]} | ({"iss": issuer} if issuer else {})

        response = await journey.confirm(ada, PROVIDER, **way)

    exchanged = journey.sandbox.ledger.count(party="oidc:static", operation="token.exchange")
    if refusal is None:
        assert response.status_code == 201, response.text
    else:
        assert assert_problem(response, 409, "flow_refused")["reason"] == refusal
        assert exchanged == 0


@pytest.mark.usefixtures("front_end")
@pytest.mark.parametrize("way", ["callback", "front end"])
async def test_issuer_that_the_discovered_document_promises_is_demanded(
    journey: Journey, tmp_path: Path, way: str
) -> None:
    ada = await journey.sign_up()
    with offering(journey.container, tmp_path, keys="discovery = true"):
        if way == "front end":
            returned = await _returned_to_front_end(journey, ada)
            body = {"code": returned["code"], "state": returned["state"]}
        else:
            started = await journey.authorize(ada, PROVIDER)
            returned = _query(await journey.consent(started["authorization_url"], account=ada.email))
            del returned["iss"]
            await journey.client.get(f"/oauth/callback/{PROVIDER}?{urlencode(returned)}")
            body = {"flow": journey.ticket(started)}

        response = await journey.confirm(ada, PROVIDER, **body)

    assert assert_problem(response, 409, "flow_refused")["reason"] == "issuer_missing"
    assert journey.sandbox.ledger.count(party="oidc:static", operation="token.exchange") == 0


async def test_callback_without_the_issuer_that_is_always_named_is_refused(journey: Journey, tmp_path: Path) -> None:
    ada = await journey.sign_up()
    with offering(journey.container, tmp_path, keys="answers_iss = true"):
        started = await journey.authorize(ada, PROVIDER)
        returned = _query(await journey.consent(started["authorization_url"], account=ada.email))
        del returned["iss"]
        await journey.client.get(f"/oauth/callback/{PROVIDER}?{urlencode(returned)}")

        response = await journey.confirm(ada, PROVIDER, flow=journey.ticket(started))

    assert assert_problem(response, 409, "flow_refused")["reason"] == "issuer_missing"


@pytest.mark.parametrize("way", ["replayed", "expired", "of another user", "of another provider", "unknown"])
async def test_state_that_is_not_good_here_and_now_stores_nothing(connected: Connected, way: str) -> None:
    journey, person, provider = connected.journey, connected.person, PROVIDER
    started = await journey.authorize(person, PROVIDER)
    returned = _query(await journey.consent(started["authorization_url"], account=person.email))
    body = {"code": returned["code"], "state": returned["state"]}
    if way == "replayed":
        assert (await journey.confirm(person, PROVIDER, **body)).status_code == 201
    elif way == "expired":
        await journey.owner.execute("UPDATE oauth_flows SET expires_at = now()")
    elif way == "of another user":
        person = await journey.sign_up("mallory@example.com")
    elif way == "of another provider":
        provider = "sandbox-strict"
    else:
        body["state"] = "A" * 43
    before = await stored_rows(journey.owner)

    response = await journey.confirm(person, provider, **body)

    assert_problem(response, 404, "flow_not_found")
    assert await stored_rows(journey.owner) == before


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
async def test_callback_with_a_parameter_twice_is_refused_and_uses_nothing_up(journey: Journey, name: str) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)
    pairs = parse_qsl(urlsplit(location).query)
    evil = [(name, "evil"), *pairs, (name, "evil")]

    refused = await journey.client.get(f"/oauth/callback/{PROVIDER}?{urlencode(evil)}")
    row = await only_row(journey, "SELECT status, code_ciphertext FROM oauth_flows")
    right = await journey.callback(location)

    assert_problem(refused, 422, "validation_failed")
    assert (row["status"], row["code_ciphertext"]) == ("pending", None)
    assert right.status_code == 303


async def test_callback_with_parameters_of_the_providers_own_is_taken(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)

    response = await journey.callback(f"{location}&session_state=x&scope=openid%20email&authuser=0")

    assert response.status_code == 303, response.text
    assert (await journey.confirm(ada, PROVIDER, flow=journey.ticket(started))).status_code == 201


@pytest.mark.usefixtures("with_nonce")
async def test_nonce_that_the_id_token_repeats_connects(journey: Journey) -> None:
    ada = await journey.sign_up()

    first, second = [(await _asked(journey, ada))["nonce"] for _ in range(2)]
    connection = await journey.connect(ada, PROVIDER)

    assert len(first) == 43
    assert first != second
    assert connection["status"] == "active"
    row = await only_row(journey, "SELECT clock_skew_seconds FROM integrations")
    assert abs(row["clock_skew_seconds"]) <= 5


BAD_ID_TOKENS: list[FaultAction] = [
    "no_id_token",
    "wrong_nonce",
    "wrong_audience",
    "wrong_issuer",
    "expired_id_token",
    "foreign_id_token",
    "bad_id_token_signature",
]


@pytest.mark.usefixtures("with_nonce")
@pytest.mark.parametrize("action", BAD_ID_TOKENS)
async def test_id_token_that_is_not_for_this_flow_is_refused_and_touches_no_stored_token(
    connected: Connected, action: FaultAction
) -> None:
    journey = connected.journey
    ticket = await returned_flow(journey, connected.person)
    before = await stored_rows(journey.owner)
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.exchange", action=action))

    response = await journey.confirm(connected.person, PROVIDER, flow=ticket)

    expected = {"no_id_token": "id_token_missing", "foreign_id_token": "subject_mismatch"}
    problem = assert_problem(response, 502, "provider_answer_invalid")
    assert problem["reason"] == expected.get(action, "id_token_refused")
    assert await stored_rows(journey.owner) == before
    assert (await connected.get()).status_code == 200


@pytest.mark.usefixtures("with_nonce")
async def test_keys_that_cannot_be_had_leave_stored_tokens_alone(connected: Connected) -> None:
    journey = connected.journey
    ticket = await returned_flow(journey, connected.person)
    before = await stored_rows(journey.owner)
    journey.container.integrations.connect_flows.oauth._accounts.id_tokens._key_sets.clear()
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="jwks", action="status", times=9))

    response = await journey.confirm(connected.person, PROVIDER, flow=ticket)

    assert_problem(response, 503, "provider_unavailable")
    assert await stored_rows(journey.owner) == before


@pytest.mark.parametrize(
    ("action", "status", "lasting"),
    [
        ("no_refresh_token", "degraded", False),
        ("expires_in_missing", "active", True),
        ("expires_in_negative", "active", True),
    ],
)
async def test_first_tokens_with_a_member_missing_or_wrong_are_kept_for_what_they_are(
    journey: Journey, action: FaultAction, status: str, *, lasting: bool
) -> None:
    ada = await journey.sign_up()
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.exchange", action=action))

    connection = await journey.connect(ada, PROVIDER)

    assert (connection["status"], connection["has_refresh_token"]) == (status, lasting)
    token = await journey.get_token(await journey.service_key(), ada.id)
    assert (await journey.userinfo(token.json()["access_token"])).status_code == 200


@pytest.mark.slow
async def test_attempts_of_a_user_who_starts_again_and_again_are_bounded(journey: Journey) -> None:
    ada, bob = await journey.sign_up(), await journey.sign_up("bob@example.com")
    others = [await journey.authorize(bob, PROVIDER), await journey.authorize(ada, "sandbox-strict")]
    gate = asyncio.Semaphore(20)

    async def start() -> None:
        async with gate:
            await journey.authorize(ada, PROVIDER)

    await asyncio.gather(*(start() for _ in range(130)))
    ticket = await returned_flow(journey, ada)

    kept = await journey.owner.fetch("SELECT id::text, user_id, provider FROM oauth_flows")
    assert [(row["user_id"], row["provider"]) for row in kept].count((ada.id, PROVIDER)) == 10
    assert {started["flow_id"] for started in others} <= {row["id"] for row in kept}
    assert (await journey.confirm(ada, PROVIDER, flow=ticket)).status_code == 201


async def test_oldest_attempt_is_the_one_that_is_given_up(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = [await journey.authorize(ada, PROVIDER) for _ in range(11)]

    returned = [
        await journey.callback(await journey.consent(one["authorization_url"], account=ada.email)) for one in started
    ]

    assert_problem(returned[0], 404, "flow_not_found")
    assert [response.status_code for response in returned[1:]] == [303] * 10


async def test_attempts_of_a_user_over_all_providers_are_bounded(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.authorize(ada, PROVIDER)
    await journey.owner.execute(
        """
        INSERT INTO oauth_flows (id, user_id, provider, state_hash, status, requested_scopes, redirect_uri, return_url,
                                 created_at, expires_at)
        SELECT overlay(id::text placing lpad(n::text, 12, '0') from 25)::uuid, user_id, 'provider-' || n,
               sha256(n::text::bytea), status, requested_scopes, redirect_uri, return_url, created_at, expires_at
        FROM oauth_flows, generate_series(1, 60) AS n
        """
    )

    newest = await journey.authorize(ada, PROVIDER)

    kept = {row["id"] for row in await journey.owner.fetch("SELECT id::text FROM oauth_flows")}
    assert len(kept) == 50
    assert newest["flow_id"] in kept


async def test_attempt_that_is_just_used_holds_up_no_new_one(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = [await journey.authorize(ada, PROVIDER) for _ in range(10)]

    async with journey.owner.transaction():
        await journey.owner.execute("SELECT FROM oauth_flows WHERE id = $1 FOR UPDATE", started[0]["flow_id"])
        async with asyncio.timeout(10):
            await journey.authorize(ada, PROVIDER)

    assert await journey.owner.fetchval("SELECT count(*) FROM oauth_flows") == 11
    await journey.authorize(ada, PROVIDER)
    assert await journey.owner.fetchval("SELECT count(*) FROM oauth_flows") == 10


async def test_silent_answer_without_a_refresh_token_lacks_the_required_offline_access(journey: Journey) -> None:
    ada = await journey.sign_up()
    tokens = journey.sandbox.providers["static"].issue(ada.email, ("openid", "email", "offline_access"))
    silent = {"access_token": tokens.access_token, "token_type": "Bearer"}
    fault = Fault(party="oidc:static", operation="token.exchange", action="status", status=200, body=silent)
    journey.sandbox.faults.add(fault)

    connection = await journey.connect(ada, PROVIDER, scopes=())

    assert (connection["status"], connection["status_reason"]) == ("needs_reauth", "scope_missing")
    assert (connection["granted_scopes"], connection["missing_scopes"]) == (["email", "openid"], ["offline_access"])
