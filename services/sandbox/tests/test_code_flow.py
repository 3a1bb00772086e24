"""The authorization code flow at the sandbox's plain providers: discovery, consent, PKCE, client authentication, code
replay, ID token and user info."""

from typing import Any

import httpx
import jwt
import pytest

from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET, KINDS
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import (
    CREDENTIALS,
    REDIRECT_URI,
    VERIFIER,
    connect,
    decide,
    exchange,
    redirect_answer,
    refresh,
    request_parameters,
    userinfo,
)


@pytest.mark.parametrize("kind", KINDS)
async def test_discovery_names_the_issuer_of_the_kind(client: httpx.AsyncClient, kind: str) -> None:
    document = (await client.get(f"/oidc/{kind}/.well-known/openid-configuration")).json()

    assert document["issuer"] == f"http://sandbox/oidc/{kind}"
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True


async def test_unknown_kind_is_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/oidc/loose/jwks.json")).status_code == 404


async def test_decision_approve_redirects_with_code_state_and_issuer(client: httpx.AsyncClient) -> None:
    answer = await decide(client)

    assert answer["code"].startswith("sbx-code-")
    assert (answer["state"], answer["iss"]) == ("state-1", "http://sandbox/oidc/strict")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"decision": "deny"}, "access_denied"),
        ({"decision": "perhaps"}, "invalid_request"),
        ({"scope": "openid everything"}, "invalid_scope"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_decision_refused_redirects_with_the_error(
    client: httpx.AsyncClient, changes: dict[str, str], error: str
) -> None:
    answer = await decide(client, **changes)

    assert (answer["error"], answer["state"], answer["iss"]) == (error, "state-1", "http://sandbox/oidc/strict")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "somebody"},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1.evil.example/callback"},
        {"redirect_uri": "http://[::1/callback"},
        {"redirect_uri": ""},
    ],
)
async def test_authorize_with_unproved_client_or_address_never_redirects(
    client: httpx.AsyncClient, changes: dict[str, str]
) -> None:
    response = await client.get("/oidc/strict/authorize", params=request_parameters(**changes))

    assert response.status_code == 400
    assert "location" not in response.headers


@pytest.mark.parametrize(("auto", "member"), [("approve", "code"), ("deny", "error")])
async def test_authorize_with_auto_decides_without_a_page(client: httpx.AsyncClient, auto: str, member: str) -> None:
    parameters = request_parameters(auto=auto, login_hint="grace@example.com")

    response = await client.get("/oidc/strict/authorize", params=parameters)

    assert member in redirect_answer(response)


async def test_authorize_page_lists_scopes_and_escapes_what_it_was_given(client: httpx.AsyncClient) -> None:
    parameters = request_parameters(state='"><script>', login_hint="<b>@example.com")

    response = await client.get("/oidc/strict/authorize", params=parameters)

    assert response.status_code == 200
    assert "Read your calendars" in response.text
    assert "<script>" not in response.text
    assert "<b>" not in response.text


async def test_connect_gives_tokens_and_claims_of_the_account(client: httpx.AsyncClient) -> None:
    tokens = await connect(client, account="grace@example.com")

    claims = (await userinfo(client, tokens["access_token"])).json()

    assert tokens["access_token"].startswith("sbx-at-")
    assert tokens["refresh_token"].startswith("sbx-rt-")
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
    assert (claims["email"], claims["email_verified"]) == ("grace@example.com", True)


async def test_connect_with_unticked_scopes_grants_fewer(client: httpx.AsyncClient) -> None:
    tokens = await connect(client, granted_scope="openid email mail.read")

    assert tokens["scope"] == "openid email"
    assert "refresh_token" not in tokens


async def test_id_token_verifies_with_nonce_and_audience(client: httpx.AsyncClient) -> None:
    tokens = await connect(client)
    keys = jwt.PyJWKSet.from_dict((await client.get("/oidc/strict/jwks.json")).json())

    claims: dict[str, Any] = jwt.decode(
        tokens["id_token"],
        keys.keys[0],
        algorithms=["RS256"],
        audience=CLIENT_ID,
        issuer="http://sandbox/oidc/strict",
    )

    assert claims["nonce"] == "nonce-1"
    assert claims["sub"] == (await userinfo(client, tokens["access_token"])).json()["sub"]


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 64},
        {"code_verifier": ""},
        {"redirect_uri": REDIRECT_URI + "/"},
        {"code": "sbx-code-unknown"},
    ],
)
async def test_exchange_with_wrong_binding_is_invalid_grant(client: httpx.AsyncClient, changes: dict[str, str]) -> None:
    code = (await decide(client))["code"]

    response = await exchange(client, changes.pop("code", code), **changes)

    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


async def test_exchange_with_verifier_for_a_code_without_challenge_is_invalid_grant(
    client: httpx.AsyncClient,
) -> None:
    form = request_parameters(code_challenge="", code_challenge_method="", decision="approve")
    code = redirect_answer(await client.post("/oidc/strict/authorize", data=form))["code"]

    assert (await exchange(client, code)).json()["error"] == "invalid_grant"
    assert (await exchange(client, code, code_verifier="")).status_code == 200


async def test_exchange_of_a_used_code_kills_its_tokens(client: httpx.AsyncClient) -> None:
    code = (await decide(client))["code"]
    tokens = (await exchange(client, code)).json()

    replay = await exchange(client, code)

    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    assert (await userinfo(client, tokens["access_token"])).status_code == 401
    assert (await refresh(client, tokens["refresh_token"])).status_code == 400


async def test_exchange_of_an_expired_code_is_invalid_grant(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    sandbox.providers["strict"].settings.code_lifetime_seconds = 1e-6
    code = (await decide(client))["code"]

    assert (await exchange(client, code)).json()["error"] == "invalid_grant"


async def test_token_with_wrong_secret_is_401_with_a_challenge(client: httpx.AsyncClient) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x"}

    response = await client.post("/oidc/strict/token", data=form, auth=(CLIENT_ID, "wrong"))

    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
    assert response.headers["www-authenticate"].startswith("Basic")


async def test_token_with_client_secret_post_is_accepted(client: httpx.AsyncClient) -> None:
    form = {
        "grant_type": "authorization_code",
        "code": (await decide(client))["code"],
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }

    assert (await client.post("/oidc/strict/token", data=form)).status_code == 200
    assert (await client.post("/oidc/strict/token", data=form, auth=CREDENTIALS)).json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": ["refresh_token", "refresh_token"]}, "invalid_request"),
    ],
)
async def test_token_with_malformed_request_is_400(client: httpx.AsyncClient, form: dict[str, Any], error: str) -> None:
    response = await client.post("/oidc/strict/token", data=form, auth=CREDENTIALS)

    assert (response.status_code, response.json()["error"]) == (400, error)


async def test_userinfo_without_openid_is_403(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    tokens = sandbox.providers["strict"].issue("ada@example.com", ("email",))

    assert (await userinfo(client, tokens.access_token)).status_code == 403
    assert (await client.get("/oidc/strict/userinfo")).status_code == 401


async def test_offline_access_without_the_consent_page_is_ignored(client: httpx.AsyncClient) -> None:
    tokens = await connect(client, prompt="")

    assert "offline_access" not in tokens["scope"].split()
    assert "refresh_token" not in tokens
