"""The imitation of Microsoft: how it handles tenants, subjects, scope names, prompts and the lifetimes of tokens, and
its AADSTS errors."""

from typing import Any

import httpx
import jwt
import pytest

from services.sandbox.imitations.microsoft import PERSONAL_TENANT
from services.sandbox.tests.imitated import Imitated
from services.sandbox.tests.imitated import microsoft as microsoft_of

USERINFO = "graph.microsoft.com/oidc/userinfo"


@pytest.fixture
def microsoft(client: httpx.AsyncClient) -> Imitated:
    return microsoft_of(client)


def _claims(tokens: dict[str, Any]) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    return claims


async def test_microsoft_issuer_names_the_tenant_of_the_account(microsoft: Imitated) -> None:
    work = _claims(await microsoft.connect())
    personal = _claims(await microsoft.connect(account="ada@outlook.com"))

    assert work["iss"] == f"http://sandbox/as/login.microsoftonline.com/{work['tid']}/v2.0"
    assert work["tid"] not in {"common", PERSONAL_TENANT}
    assert personal["tid"] == PERSONAL_TENANT


async def test_microsoft_discovery_of_common_has_a_template_for_issuer(client: httpx.AsyncClient) -> None:
    path = "/as/login.microsoftonline.com/{}/v2.0/.well-known/openid-configuration"

    common = (await client.get(path.format("common"))).json()["issuer"]
    tenant = (await client.get(path.format(PERSONAL_TENANT))).json()["issuer"]

    assert common == "http://sandbox/as/login.microsoftonline.com/{tenantid}/v2.0"
    assert tenant == f"http://sandbox/as/login.microsoftonline.com/{PERSONAL_TENANT}/v2.0"


async def test_microsoft_subject_is_of_the_app_and_oid_is_the_persons(microsoft: Imitated) -> None:
    tokens = await microsoft.connect()
    claims = _claims(tokens)

    told = (await microsoft.get(USERINFO, tokens["access_token"])).json()
    me = (await microsoft.get("graph.microsoft.com/v1.0/me", tokens["access_token"])).json()

    assert told["sub"] == claims["sub"] != claims["oid"]
    assert me["id"] == claims["oid"]
    assert (claims["email"], claims["preferred_username"]) == ("ada@example.com", "ada@example.com")


async def test_microsoft_id_token_verifies_with_the_keys_of_any_tenant(microsoft: Imitated) -> None:
    path = f"/as/login.microsoftonline.com/{PERSONAL_TENANT}/discovery/v2.0/keys"
    keys = jwt.PyJWKSet.from_dict((await microsoft.client.get(path)).json())

    tokens = await microsoft.connect()

    assert jwt.decode(tokens["id_token"], keys.keys[0], algorithms=["RS256"], options={"verify_aud": False})


async def test_microsoft_scopes_omit_offline_access_and_carry_the_prefix(microsoft: Imitated) -> None:
    told = (await microsoft.connect(scope="openid email offline_access mail.read User.Read"))["scope"].split()

    assert told == ["https://graph.microsoft.com/Mail.Read", "https://graph.microsoft.com/User.Read", "email", "openid"]


async def test_microsoft_scopes_may_come_back_in_lower_case(microsoft: Imitated) -> None:
    await microsoft.control("settings", lower_case_scopes=True)

    assert "https://graph.microsoft.com/mail.read" in (await microsoft.connect())["scope"].split()


async def test_microsoft_refresh_may_name_scopes_with_prefix_and_in_any_case(microsoft: Imitated) -> None:
    tokens = await microsoft.connect()

    narrow = await microsoft.refresh(tokens["refresh_token"], scope="https://graph.microsoft.com/MAIL.READ")
    wider = await microsoft.refresh(tokens["refresh_token"], scope="Files.Read")

    assert narrow.json()["scope"] == "https://graph.microsoft.com/Mail.Read"
    assert wider.json()["error_codes"] == [70011]


async def test_microsoft_without_offline_access_gives_no_refresh_token(microsoft: Imitated) -> None:
    assert "refresh_token" not in await microsoft.connect(scope="openid Mail.Read")


async def test_microsoft_refresh_gives_a_new_token_and_keeps_the_old(microsoft: Imitated) -> None:
    first = await microsoft.connect()

    second = (await microsoft.refresh(first["refresh_token"])).json()
    again = await microsoft.refresh(first["refresh_token"])

    assert second["refresh_token"] != first["refresh_token"]
    assert again.status_code == 200


async def test_microsoft_access_tokens_live_60_to_90_minutes(microsoft: Imitated) -> None:
    lifetimes = {(await microsoft.connect())["expires_in"] for _ in range(20)}

    assert all(3600 <= lifetime <= 5400 for lifetime in lifetimes)
    assert len(lifetimes) > 1


@pytest.mark.parametrize("prompt", ["select_account", "consent"])
async def test_microsoft_takes_one_prompt(microsoft: Imitated, prompt: str) -> None:
    assert "code" in await microsoft.decide(prompt=prompt)


async def test_microsoft_refuses_two_prompts_at_once(microsoft: Imitated) -> None:
    answer = await microsoft.decide(prompt="select_account consent")

    assert answer["error"] == "invalid_request"
    assert answer["error_description"].startswith("AADSTS90023")


@pytest.mark.parametrize(
    ("reason", "error", "number", "suberror"),
    [
        ("password_changed", "invalid_grant", 50173, "bad_token"),
        ("mfa_required", "interaction_required", 50076, "basic_action"),
        ("consent_required", "consent_required", 65001, "consent_required"),
    ],
)
async def test_microsoft_tells_why_a_grant_ended(
    microsoft: Imitated, *, reason: str, error: str, number: int, suberror: str
) -> None:
    tokens = await microsoft.connect()

    await microsoft.control("revoke", account="ada@example.com", reason=reason)
    response = await microsoft.refresh(tokens["refresh_token"])

    refused = response.json()
    assert (response.status_code, refused["error"], refused["suberror"]) == (400, error, suberror)
    assert refused["error_codes"] == [number]
    assert refused["error_description"].startswith(f"AADSTS{number}: ")
    assert refused["trace_id"] != refused["correlation_id"]


async def test_microsoft_unused_for_90_days_is_700082(microsoft: Imitated) -> None:
    tokens = await microsoft.connect()

    await microsoft.control("age", days=89)
    kept = (await microsoft.refresh(tokens["refresh_token"])).json()
    await microsoft.control("age", days=91, account="ada@example.com")

    assert (await microsoft.refresh(kept["refresh_token"])).json()["error_codes"] == [700082]


async def test_microsoft_single_page_app_is_700084_after_a_day(microsoft: Imitated) -> None:
    await microsoft.control("settings", spa=True)
    tokens = await microsoft.connect()

    await microsoft.control("age", days=0.9)
    before = await microsoft.refresh(tokens["refresh_token"])
    await microsoft.control("age", days=0.2)
    after = (await microsoft.refresh(tokens["refresh_token"])).json()

    assert before.status_code == 200
    assert (after["error"], after["error_codes"]) == ("invalid_grant", [700084])


async def test_microsoft_wrong_secret_is_7000215(microsoft: Imitated) -> None:
    response = await microsoft.refresh("sbx-rt-x", client_secret="wrong")

    assert (response.status_code, response.json()["error_codes"]) == (401, [7000215])


async def test_microsoft_has_no_revocation_endpoint(client: httpx.AsyncClient) -> None:
    response = await client.post("/as/login.microsoftonline.com/common/oauth2/v2.0/revoke", data={"token": "x"})

    assert response.status_code == 404
