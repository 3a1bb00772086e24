"""Tests of `POST /internal/oauth/token`: a service gets a user's access token for a provider by OAuth token exchange
(RFC 8693). Requests and refusals have OAuth's form, with a few parameters and members of our own."""

import base64
import re
import time
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from services.user_management.container import Container
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.integration_scenes import PROVIDER, WORK, connect_account
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import Connected, Headers, read_outcomes

PATH = "/internal/oauth/token"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
USER_ID = "urn:user-management:token-type:user-id"
FORM_TYPE = "application/x-www-form-urlencoded"


def _form(scene: Connected, **changes: str | None) -> dict[str, str]:
    """Return the form of a request that is granted, with `changes` made to its fields; None leaves a field out."""
    fields: dict[str, str | None] = {
        "grant_type": GRANT_TYPE,
        "subject_token": scene.user_id,
        "subject_token_type": USER_ID,
        "audience": PROVIDER,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


async def _exchange(scene: Connected, *, headers: Headers | None = None, **changes: str | None) -> httpx.Response:
    headers = scene.key if headers is None else headers
    return await scene.journey.client.post(PATH, headers=headers, data=_form(scene, **changes))


def _refused(response: httpx.Response, error: str, status: int = 400) -> dict[str, Any]:
    """Assert that the answer is the refusal `error`, in a form that a strict OAuth client can read (RFC 6749 section
    5.2); return its body."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["error"]) == (status, error), response.text
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", body["error_description"])
    assert body["request_id"] == response.headers["x-request-id"]
    assert "access_token" not in body
    return body


def _key(scene: Connected) -> tuple[str, str]:
    """Return the service's key as OAuth's (client id, client secret)."""
    secret = scene.key["Authorization"].removeprefix("Bearer ")
    return secret.rpartition("_")[0], secret


def _basic(client_id: str, secret: str) -> Headers:
    return {"Authorization": f"Basic {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"}


async def test_exchange_answers_as_the_standard_says(connected: Connected) -> None:
    response = await _exchange(connected, scope="email openid", reason="nightly")

    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["token_type"], body["issued_token_type"]) == ("Bearer", ACCESS_TOKEN)
    assert set(body["scope"].split()) == {"calendar.read", "email", "offline_access", "openid"}
    assert 3500 < body["expires_in"] <= 3600
    assert "refresh_token" not in body
    assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
    assert (await connected.journey.userinfo(body["access_token"])).status_code == 200
    row = await connected.journey.owner.fetchrow("SELECT outcome, scopes, reason FROM token_reads")
    assert tuple(row or ()) == ("granted", '["email", "openid"]', "nightly")


async def test_exchange_takes_a_session_of_the_user_as_subject(connected: Connected) -> None:
    session = connected.journey.sandbox.clerk.session_token(connected.user_id)

    response = await _exchange(connected, subject_token=session, subject_token_type=JWT)

    assert response.status_code == 200, response.text
    assert await read_outcomes(connected.journey) == ["granted"]


async def test_exchange_of_a_session_as_an_access_token_is_refused(connected: Connected) -> None:
    session = connected.journey.sandbox.clerk.session_token(connected.user_id)

    response = await _exchange(connected, subject_token=session, subject_token_type=ACCESS_TOKEN)

    assert JWT in _refused(response, "invalid_request")["error_description"]
    assert await read_outcomes(connected.journey) == []


SESSIONS: dict[str, dict[str, Any]] = {
    "expired": {"issued_at": int(time.time()) - 3600},
    "not yet valid": {"issued_at": int(time.time()) + 3600},
    "of another issuer": {"iss": "https://clerk.elsewhere.example"},
    "for another party": {"azp": "https://evil.example"},
    "unsigned": {"algorithm": "none", "key": b""},
    "signed by somebody else": {"algorithm": "HS256", "key": b"k" * 32},
    "pending": {"sts": "pending"},
    "of an impersonator": {"act": {"sub": "user_support"}},
}


@pytest.mark.parametrize("session", SESSIONS)
async def test_exchange_refuses_a_session_that_does_not_speak_for_the_user(connected: Connected, session: str) -> None:
    token = connected.journey.sandbox.clerk.session_token(connected.user_id, **SESSIONS[session])

    response = await _exchange(connected, subject_token=token, subject_token_type=JWT)

    _refused(response, "invalid_request")
    assert await read_outcomes(connected.journey) == []


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\u00e9", "e30.e30.", "x" * 9000])
async def test_exchange_refuses_a_subject_that_is_no_session(connected: Connected, token: str) -> None:
    _refused(await _exchange(connected, subject_token=token, subject_token_type=JWT), "invalid_request")


async def test_exchange_of_a_user_id_as_a_session_is_refused(connected: Connected) -> None:
    _refused(await _exchange(connected, subject_token_type=JWT), "invalid_request")


async def test_exchange_takes_the_key_from_wherever_oauth_clients_put_it(connected: Connected) -> None:
    client_id, secret = _key(connected)
    every_character = "".join(f"%{ord(character):02X}" for character in secret)
    ways: list[tuple[Headers, dict[str, str]]] = [
        ({"Authorization": f"Bearer {secret}"}, {}),
        ({"Authorization": f"bearer {secret}"}, {"client_id": client_id}),
        ({"X-API-Key": secret}, {}),
        (_basic(client_id, secret), {}),
        (_basic(quote(client_id, safe=""), every_character), {}),
        ({}, {"client_id": client_id, "client_secret": secret}),
    ]

    for headers, fields in ways:
        response = await _exchange(connected, headers=headers, **fields)
        assert response.status_code == 200, response.text


async def test_exchange_refuses_two_credentials_at_once(connected: Connected) -> None:
    client_id, secret = _key(connected)
    bearer, header, basic = {"Authorization": f"Bearer {secret}"}, {"X-API-Key": secret}, _basic(client_id, secret)
    posted = {"client_id": client_id, "client_secret": secret}
    ways: list[tuple[Headers, dict[str, str]]] = [
        (bearer, posted),
        (basic, posted),
        (header, posted),
        (bearer | header, {}),
        (basic | header, {}),
        (bearer, {"client_secret": secret}),
    ]

    for headers, fields in ways:
        response = await _exchange(connected, headers=headers, **fields)
        _refused(response, "invalid_client", 401)
    assert await read_outcomes(connected.journey) == []


async def test_exchange_refuses_a_credential_that_is_not_good(connected: Connected) -> None:
    client_id, secret = _key(connected)
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    ways: list[tuple[Headers, dict[str, str]]] = [
        ({}, {}),
        ({"Authorization": f"Bearer {wrong}"}, {}),
        (connected.headers, {}),
        (_basic(client_id, wrong), {}),
        (_basic("ums_000000000000", secret), {}),
        (_basic(client_id, ""), {}),
        ({"Authorization": "Basic not-base64!"}, {}),
        ({"Authorization": f"Basic {base64.b64encode(b'x:' + bytes([255])).decode()}"}, {}),
        ({"Authorization": "Basic"}, {}),
        ({}, {"client_id": client_id, "client_secret": wrong}),
        ({}, {"client_id": "ums_000000000000", "client_secret": secret}),
        ({}, {"client_secret": secret}),
        ({}, {"client_id": client_id}),
    ]

    for headers, fields in ways:
        response = await _exchange(connected, headers=headers, **fields)
        assert _refused(response, "invalid_client", 401)["cause"] == "unauthenticated"
        scheme = headers.get("Authorization", "Basic").partition(" ")[0]
        assert response.headers["www-authenticate"] == f'{scheme} realm="user-management"'
    assert await read_outcomes(connected.journey) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": None}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token": "line\nbreak"}, "invalid_request"),
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"requested_token_type": JWT}, "invalid_request"),
        ({"actor_token": "x", "actor_token_type": JWT}, "invalid_request"),
        ({"surprise": "x"}, "invalid_request"),
        ({"audience": None}, "invalid_target"),
        ({"audience": ""}, "invalid_target"),
        ({"resource": "sandbox-strict"}, "invalid_target"),
        ({"audience": "UPPER"}, "invalid_request"),
        ({"scope": 'quo"te'}, "invalid_request"),
        ({"scope": " ".join(f"s{number}" for number in range(65))}, "invalid_request"),
        ({"min_ttl_seconds": "0"}, "invalid_request"),
        ({"min_ttl_seconds": "1.5"}, "invalid_request"),
        ({"min_ttl_seconds": "9" * 40}, "invalid_request"),
        ({"min_ttl_seconds": "\u0663"}, "invalid_request"),
        ({"account": "\x7f"}, "invalid_request"),
        ({"reason": "r" * 201}, "invalid_request"),
    ],
)
async def test_exchange_refuses_a_request_that_it_does_not_understand(
    connected: Connected, changes: dict[str, str | None], error: str
) -> None:
    _refused(await _exchange(connected, headers=connected.key, **changes), error)

    assert await read_outcomes(connected.journey) == []


async def test_exchange_takes_the_provider_as_resource_and_an_account(connected: Connected) -> None:
    second = await connect_account(connected.journey, connected.person, WORK, new_account=True)

    response = await _exchange(
        connected, audience=None, resource=PROVIDER, account=WORK, requested_token_type=ACCESS_TOKEN, scope=""
    )

    assert response.status_code == 200, response.text
    assert response.json()["account"] == second["provider_account_id"]


DEAD = "UPDATE integrations SET status = '{}', status_reason = 'grant_refused'"
SUSPENDED = "UPDATE users SET status = 'suspended'"
REASON_REQUIRED = "UPDATE service_grants SET reason_required = true"
LINKED = {"not_connected", "needs_reauth", "revoked", "insufficient_scope"}


@pytest.mark.parametrize(
    ("outcome", "error", "changes", "statement"),
    [
        ("grant_denied", "unauthorized_client", {"audience": "sandbox-strict"}, None),
        ("reason_required", "invalid_request", {}, REASON_REQUIRED),
        ("unknown_provider", "invalid_target", {"audience": "myspace"}, None),
        ("user_not_found", "invalid_grant", {"subject_token": "user_nobody"}, None),
        ("user_inactive", "invalid_grant", {}, SUSPENDED),
        ("not_connected", "invalid_grant", {"account": "nobody@example.com"}, None),
        ("needs_reauth", "invalid_grant", {}, DEAD.format("needs_reauth")),
        ("revoked", "invalid_grant", {}, DEAD.format("revoked")),
        ("insufficient_scope", "invalid_scope", {"scope": "mail.read"}, None),
    ],
)
async def test_refusal_of_the_door_is_told_in_oauths_words_with_its_cause(
    connected: Connected, outcome: str, error: str, changes: dict[str, str], statement: str | None
) -> None:
    if statement is not None:
        await connected.journey.owner.execute(statement)

    body = _refused(await _exchange(connected, headers=connected.key, **changes), error)

    assert body["cause"] == outcome
    assert await read_outcomes(connected.journey) == [outcome]
    assert ("reconnect_url" in body) is (outcome in LINKED)
    assert body.get("missing_scopes") == (["mail.read"] if outcome == "insufficient_scope" else None)


async def test_exchange_while_the_provider_is_down_says_when_to_come_again(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("status", status=503, headers={"Retry-After": "7"})

    response = await _exchange(connected)

    _refused(response, "temporarily_unavailable", 503)
    assert response.headers["retry-after"] == "8"  # the wish and up to a tenth of it, rounded up


async def test_exchange_whose_provider_refuses_our_client_is_the_operators(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="invalid_client")

    _refused(await _exchange(connected), "temporarily_unavailable", 502)


async def test_exchange_beyond_the_allowance_is_refused(
    connected: Connected, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = container.resources.settings.limits.policies() | {RateClass.INTERNAL: QuotaPolicy(1, 60)}
    limits = RateLimits(container.resources.redis, policies, container.resources.clock)
    replace_in_group(monkeypatch, container, "resources", rate_limits=limits)

    first, second = await _exchange(connected), await _exchange(connected)

    assert first.status_code == 200
    assert _refused(second, "temporarily_unavailable", 429)["cause"] == "rate_limited"
    assert int(second.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        "grant_type=\u00e9".encode(),
        b"grant_type=%ff%fe",
        b"&".join(b"f%d=x" % number for number in range(33)),
    ],
)
async def test_body_that_is_no_form_is_refused(connected: Connected, content: bytes) -> None:
    headers = {**connected.key, "Content-Type": FORM_TYPE}

    response = await connected.journey.client.post(PATH, headers=headers, content=content)

    _refused(response, "invalid_request")


@pytest.mark.parametrize("name", ["grant_type", "subject_token", "audience", "client_secret"])
async def test_field_that_is_there_twice_is_refused(connected: Connected, name: str) -> None:
    fields = {**_form(connected), "client_secret": "x"}
    headers = {**connected.key, "Content-Type": FORM_TYPE}
    content = f"{urlencode(fields)}&{name}={quote(fields[name], safe='')}"

    response = await connected.journey.client.post(PATH, headers=headers, content=content)

    _refused(response, "invalid_request")
    assert await read_outcomes(connected.journey) == []


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
async def test_other_media_types_are_refused(connected: Connected, media_type: str) -> None:
    headers = {**connected.key, "Content-Type": media_type}

    response = await connected.journey.client.post(PATH, headers=headers, content=urlencode(_form(connected)))

    assert _refused(response, "invalid_request")["cause"] == "unsupported_media_type"


async def test_media_type_with_a_parameter_and_in_any_case_is_taken(connected: Connected) -> None:
    headers = {**connected.key, "Content-Type": "Application/X-WWW-Form-URLEncoded; charset=UTF-8"}

    response = await connected.journey.client.post(PATH, headers=headers, content=urlencode(_form(connected)))

    assert response.status_code == 200, response.text


async def test_refusals_below_the_route_are_as_readable(connected: Connected) -> None:
    client = connected.journey.client
    huge = {**connected.key, "Content-Type": FORM_TYPE, "Content-Length": "2000000"}

    other_method = await client.get(PATH, headers=connected.key)
    too_large = await client.post(PATH, headers=huge, content=b"x")

    _refused(other_method, "invalid_request", 405)
    assert other_method.headers["allow"] == "POST"
    _refused(too_large, "invalid_request", 413)


async def test_description_holds_no_character_that_oauth_forbids(connected: Connected) -> None:
    surprise: dict[str, Any] = {'na"me\\\n\u20ac': "x"}

    response = await _exchange(connected, **surprise)

    assert "na'me" in _refused(response, "invalid_request")["error_description"]


async def test_token_that_does_not_run_out_has_no_expires_in(connected: Connected) -> None:
    await connected.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")

    response = await _exchange(connected)

    assert response.status_code == 200, response.text
    assert "expires_in" not in response.json()


@pytest.mark.parametrize("seconds", ["60", "60.0"])
async def test_integer_may_be_written_as_an_integral_number(connected: Connected, seconds: str) -> None:
    assert (await _exchange(connected, min_ttl_seconds=seconds)).status_code == 200
