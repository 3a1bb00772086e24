"""Scripted faults that spoil single members of a token answer, also of a form or of Slack's nested one; and scripted
errors, in each provider's own format."""

import time
from typing import Any

import httpx
import jwt
import pytest

from services.sandbox.faults import Fault, FaultAction
from services.sandbox.providers import CLIENT_ID
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import connect, decide, exchange
from services.sandbox.tests.imitated import Imitated, github, google, microsoft, slack

ISSUER = "http://sandbox/oidc/strict"


async def _spoiled(sandbox: Sandbox, client: httpx.AsyncClient, action: FaultAction, **fields: Any) -> dict[str, Any]:
    sandbox.faults.add(Fault(party="oidc:strict", operation="token.exchange", action=action, **fields))
    tokens: dict[str, Any] = (await exchange(client, (await decide(client))["code"])).json()
    return tokens


def _verified(sandbox: Sandbox, tokens: dict[str, Any], **changes: Any) -> dict[str, Any]:
    key = sandbox.providers["strict"].signing_key.private_key.public_key()
    expected: dict[str, Any] = {"audience": CLIENT_ID, "issuer": ISSUER} | changes
    claims: dict[str, Any] = jwt.decode(tokens["id_token"], key, algorithms=["RS256"], **expected)
    return claims


@pytest.mark.parametrize(
    ("action", "failure"),
    [
        ("wrong_audience", jwt.InvalidAudienceError),
        ("wrong_issuer", jwt.InvalidIssuerError),
        ("expired_id_token", jwt.ExpiredSignatureError),
        ("bad_id_token_signature", jwt.InvalidSignatureError),
    ],
)
async def test_fault_spoils_the_id_token_and_nothing_else(
    sandbox: Sandbox, client: httpx.AsyncClient, *, action: FaultAction, failure: type[Exception]
) -> None:
    tokens = await _spoiled(sandbox, client, action)

    with pytest.raises(failure):
        _verified(sandbox, tokens)
    assert tokens["access_token"]


async def test_fault_wrong_nonce_is_signed_well(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    assert _verified(sandbox, await _spoiled(sandbox, client, "wrong_nonce"))["nonce"] != "nonce-1"


async def test_fault_foreign_id_token_is_signed_well_and_about_somebody_else(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    own = _verified(sandbox, await connect(client))

    foreign = _verified(sandbox, await _spoiled(sandbox, client, "foreign_id_token"))

    assert foreign["sub"] != own["sub"]
    assert (foreign["nonce"], foreign["exp"] > time.time()) == ("nonce-1", True)


async def test_fault_no_id_token_leaves_it_out(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    assert "id_token" not in await _spoiled(sandbox, client, "no_id_token")


@pytest.mark.parametrize(("scope", "told"), [(None, "openid"), ("", ""), ("openid mail.read", "openid mail.read")])
async def test_fault_scope_narrowed_tells_other_scopes(
    sandbox: Sandbox, client: httpx.AsyncClient, scope: str | None, told: str
) -> None:
    assert (await _spoiled(sandbox, client, "scope_narrowed", scope=scope))["scope"] == told


async def test_fault_expires_in_zero(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    assert (await _spoiled(sandbox, client, "expires_in_zero"))["expires_in"] == 0


async def test_fault_in_a_form_answer_leaves_it_a_form(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    party = github(client)
    await party.control("settings", expiring_tokens=True)
    sandbox.faults.add(Fault(party="github", action="no_refresh_token", operation="token.exchange"))

    response = await party.exchange((await party.decide())["code"], accept="*/*")

    assert response.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert ("access_token=" in response.text, "refresh_token=" in response.text) == (True, False)


async def test_fault_reaches_the_tokens_of_a_person_at_slack(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    party = slack(client)
    await party.control("settings", token_rotation=True)
    sandbox.faults.add(Fault(party="slack", action="expires_in_negative", operation="token.exchange"))

    tokens = await party.connect()

    assert (tokens["ok"], tokens["authed_user"]["expires_in"]) == (True, -3600)


async def test_fault_error_of_the_api_of_github_is_in_its_style(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    fault = Fault(party="github", operation="userinfo", action="error", error="Server Error", status=502)
    sandbox.faults.add(fault)

    response = await github(client).get("api.github.com/user", "any")

    assert (response.status_code, response.json()["message"]) == (502, "Server Error")


async def test_fault_error_is_written_in_the_partys_style(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    def script(party: Imitated, error: str, **fields: Any) -> Imitated:
        sandbox.faults.add(Fault(party=party.name, operation="token.refresh", action="error", error=error, **fields))
        return party

    of_google = await script(google(client), "invalid_grant", members={"error_subtype": "x"}).refresh("any")
    aadsts = "AADSTS50079: enrol."
    of_microsoft = await script(microsoft(client), "interaction_required", description=aadsts).refresh("any")
    of_github = await script(github(client), "bad_refresh_token").refresh("any")
    of_slack = await script(slack(client), "token_revoked").refresh("any")

    assert (of_google.status_code, of_google.json()["error_subtype"]) == (400, "x")
    assert (of_microsoft.status_code, of_microsoft.json()["error_codes"]) == (400, [50079])
    assert (of_github.status_code, of_github.json()["error"]) == (200, "bad_refresh_token")
    assert (of_slack.status_code, of_slack.json()) == (200, {"ok": False, "error": "token_revoked"})
