"""The imitation of Google: how it handles ID tokens, refresh tokens, scope names, consent, expiry, policies and
revocation, and its controls."""

from typing import Any

import httpx
import jwt
import pytest

from services.sandbox.imitations.google import LEGACY_ISSUER
from services.sandbox.providers import CLIENT_ID
from services.sandbox.state import Sandbox
from services.sandbox.tests.imitated import Imitated
from services.sandbox.tests.imitated import google as google_of

USERINFO = "openidconnect.googleapis.com/v1/userinfo"
CALENDAR = "https://www.googleapis.com/auth/calendar.readonly"
LONG_EMAIL = "https://www.googleapis.com/auth/userinfo.email"
CONSENT = "select_account consent"


@pytest.fixture
def google(client: httpx.AsyncClient) -> Imitated:
    return google_of(client)


def _claims(tokens: dict[str, Any]) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    return claims


async def test_google_discovery_names_the_paths_it_serves(google: Imitated) -> None:
    document = (await google.client.get("/as/accounts.google.com/.well-known/openid-configuration")).json()

    assert document["issuer"] == "http://sandbox/as/accounts.google.com"
    assert document["authorization_endpoint"] == f"http://sandbox{google.authorization_path}"
    assert document["token_endpoint"] == f"http://sandbox{google.token_path}"


async def test_google_id_token_verifies_and_names_the_issuer(google: Imitated) -> None:
    tokens = await google.connect()
    keys = jwt.PyJWKSet.from_dict((await google.client.get("/as/www.googleapis.com/oauth2/v3/certs")).json())

    claims: dict[str, Any] = jwt.decode(
        tokens["id_token"],
        keys.keys[0],
        algorithms=["RS256"],
        audience=CLIENT_ID,
        issuer="http://sandbox/as/accounts.google.com",
    )

    assert (claims["nonce"], claims["azp"]) == ("nonce-1", CLIENT_ID)
    assert claims["sub"] == (await google.get(USERINFO, tokens["access_token"])).json()["sub"]


async def test_google_legacy_issuer_has_no_scheme(google: Imitated) -> None:
    await google.control("settings", legacy_issuer=True)

    assert _claims(await google.connect())["iss"] == LEGACY_ISSUER


async def test_google_without_offline_access_gives_no_refresh_token(google: Imitated) -> None:
    assert "refresh_token" not in await google.connect(access_type="")


async def test_google_gives_a_refresh_token_at_the_first_consent_alone(google: Imitated) -> None:
    first = await google.connect()
    second = await google.connect()
    other = await google.connect(account="grace@example.com")

    assert "refresh_token" in first
    assert "refresh_token" not in second
    assert "refresh_token" in other


async def test_google_asked_for_consent_gives_another_refresh_token(google: Imitated) -> None:
    first = await google.connect()
    second = await google.connect(prompt=CONSENT)

    assert second["refresh_token"] != first["refresh_token"]


async def test_google_refresh_repeats_no_refresh_token_and_keeps_it(google: Imitated) -> None:
    tokens = await google.connect()

    answers = [(await google.refresh(tokens["refresh_token"])).json() for _ in range(2)]

    assert all(answer["access_token"] and "refresh_token" not in answer for answer in answers)


async def test_google_tells_scopes_by_their_long_names_in_another_order(google: Imitated) -> None:
    asked = ["openid", "email", "profile", CALENDAR]

    told = (await google.connect(scope=" ".join(asked)))["scope"].split()

    profile = "https://www.googleapis.com/auth/userinfo.profile"
    assert set(told) == {"openid", LONG_EMAIL, profile, CALENDAR}
    assert [{LONG_EMAIL: "email", profile: "profile"}.get(scope, scope) for scope in told] != asked


async def test_google_takes_the_long_names_too(google: Imitated) -> None:
    tokens = await google.connect(scope=f"openid {LONG_EMAIL}")

    assert _claims(tokens)["email"] == "ada@example.com"


async def test_google_unknown_scope_is_refused(google: Imitated) -> None:
    assert (await google.decide(scope="openid offline_access"))["error"] == "invalid_scope"


async def test_google_merges_what_was_granted_earlier_where_asked_to(google: Imitated) -> None:
    await google.connect(scope=f"openid {CALENDAR}")

    plain = await google.connect(scope="openid email")
    merged = await google.connect(scope="openid email", include_granted_scopes="true")

    assert CALENDAR not in plain["scope"].split()
    assert CALENDAR in merged["scope"].split()


async def test_google_person_may_untick_scopes(google: Imitated) -> None:
    tokens = await google.connect(scope=f"openid email {CALENDAR}", granted_scope="openid email")

    assert set(tokens["scope"].split()) == {"openid", LONG_EMAIL}


async def test_google_consent_page_posts_to_its_own_path(google: Imitated) -> None:
    query = {"client_id": CLIENT_ID, "redirect_uri": "http://test/x", "response_type": "code", "scope": "openid"}
    response = await google.client.get(google.authorization_path, params=query | {"access_type": "offline"})

    assert f'action="{google.authorization_path}"' in response.text
    assert 'name="access_type" value="offline"' in response.text


async def test_google_answer_carries_no_issuer(google: Imitated) -> None:
    assert (await google.decide()).keys() == {"code", "state"}


async def test_google_oldest_of_too_many_refresh_tokens_dies_silently(google: Imitated) -> None:
    tokens = [await google.connect(prompt=CONSENT) for _ in range(101)]

    oldest = await google.refresh(tokens[0]["refresh_token"])

    assert (oldest.status_code, oldest.json()["error"]) == (400, "invalid_grant")
    assert (await google.refresh(tokens[1]["refresh_token"])).status_code == 200
    assert (await google.get(USERINFO, tokens[0]["access_token"])).status_code == 200


async def test_google_in_testing_refresh_tokens_die_after_seven_days(google: Imitated) -> None:
    await google.control("settings", testing=True)
    tokens = await google.connect()

    await google.control("age", days=6.9)
    before = await google.refresh(tokens["refresh_token"])
    await google.control("age", days=0.2)
    after = await google.refresh(tokens["refresh_token"])

    assert tokens["refresh_token_expires_in"] in {7 * 86_400, 7 * 86_400 - 1}
    assert before.status_code == 200
    assert (after.status_code, after.json()["error"]) == (400, "invalid_grant")
    assert after.json()["error_description"] == "Token has been expired or revoked."


async def test_google_time_based_access_tells_when_it_ends(google: Imitated) -> None:
    await google.control("settings", time_based_access_days=1)

    tokens = await google.connect()
    refreshed = (await google.refresh(tokens["refresh_token"])).json()

    assert 86_390 <= tokens["refresh_token_expires_in"] <= 86_400
    assert 86_390 <= refreshed["refresh_token_expires_in"] <= 86_400


async def test_google_unused_for_six_months_dies_and_use_keeps_it_alive(google: Imitated) -> None:
    used, unused = await google.connect(), await google.connect(account="grace@example.com")

    await google.control("age", days=100)
    await google.refresh(used["refresh_token"])
    await google.control("age", days=100)

    assert (await google.refresh(used["refresh_token"])).status_code == 200
    assert (await google.refresh(unused["refresh_token"])).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("reason", ["invalid_rapt", "admin_policy_enforced"])
async def test_google_policy_of_an_administrator_shows_as_subtype(google: Imitated, reason: str) -> None:
    tokens = await google.connect()

    await google.control("revoke", account="ada@example.com", reason=reason)
    refused = (await google.refresh(tokens["refresh_token"])).json()

    assert (refused["error"], refused["error_subtype"]) == ("invalid_grant", reason)


async def test_google_internal_app_shows_an_error_page(google: Imitated) -> None:
    await google.control("settings", org_internal=True)

    response = await google.client.get(
        google.authorization_path,
        params={"client_id": CLIENT_ID}
        | {"redirect_uri": "http://testserver/x", "response_type": "code", "scope": "openid"},
    )

    assert (response.status_code, "org_internal" in response.text) == (403, True)


async def test_google_revoke_ends_every_grant_of_the_account_without_a_client(google: Imitated) -> None:
    first = await google.connect()
    second = await google.connect(prompt=CONSENT)
    other = await google.connect(account="grace@example.com")

    answer = await google.client.post("/as/oauth2.googleapis.com/revoke", data={"token": second["access_token"]})

    assert answer.status_code == 200
    assert (await google.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await google.get(USERINFO, first["access_token"])).status_code == 401
    assert (await google.refresh(other["refresh_token"])).status_code == 200
    assert "refresh_token" in await google.connect()


async def test_google_revoke_of_an_unknown_or_dead_token_is_invalid_token(google: Imitated) -> None:
    tokens = await google.connect()
    path = "/as/oauth2.googleapis.com/revoke"
    await google.client.post(path, params={"token": tokens["refresh_token"]})

    answers = [await google.client.post(path, data={"token": token}) for token in (tokens["refresh_token"], "x")]

    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [(400, "invalid_token")] * 2


async def test_google_ledger_and_grants_go_by_its_name(sandbox: Sandbox, google: Imitated) -> None:
    tokens = await google.control("grants", account="grace@example.com", scopes=["openid", LONG_EMAIL])
    await google.refresh(tokens["refresh_token"])

    (grant,) = (await google.client.get("/as/_control/google/grants")).json()["items"]

    assert grant["scopes"] == ["openid", "email"]
    assert sandbox.ledger.count(party="google", operation="token.refresh", committed=True) == 1


async def test_google_reset_forgets_consents_and_settings(google: Imitated) -> None:
    await google.control("settings", testing=True)
    tokens = await google.connect()

    settings = await google.control("reset")

    assert settings["testing"] is False
    assert (await google.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    assert "refresh_token" in await google.connect()
