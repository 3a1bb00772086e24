"""The imitation of GitHub: how it handles expiry, scopes and e-mail addresses, its form answers, its errors with status
200, and the deletion of tokens and grants."""

from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from services.sandbox.providers import CLIENT_ID
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import REDIRECT_URI
from services.sandbox.tests.imitated import Imitated
from services.sandbox.tests.imitated import github as github_of

USER, EMAILS = "api.github.com/user", "api.github.com/user/emails"
GRANT, TOKEN = (f"api.github.com/applications/{CLIENT_ID}/{what}" for what in ("grant", "token"))


@pytest.fixture
def github(client: httpx.AsyncClient) -> Imitated:
    return github_of(client)


@pytest.fixture
async def expiring(github: Imitated) -> Imitated:
    await github.control("settings", expiring_tokens=True)
    return github


async def test_github_answer_carries_its_issuer(github: Imitated) -> None:
    path = "/as/github.com/.well-known/oauth-authorization-server/login/oauth"

    told = (await github.client.get(path)).json()["issuer"]

    assert (await github.decide())["iss"] == told == "http://sandbox/as/github.com/login/oauth"


async def test_github_answers_a_form_unless_json_is_asked_for(github: Imitated) -> None:
    form = await github.exchange((await github.decide())["code"], accept="*/*")
    tokens = await github.connect()

    assert form.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert parse_qs(form.text)["token_type"] == ["bearer"]
    assert tokens["token_type"] == "bearer"


async def test_github_needs_no_grant_type_with_a_code(sandbox: Sandbox, github: Imitated) -> None:
    response = await github.exchange((await github.decide())["code"], grant_type="")

    assert "access_token" in response.json()
    assert sandbox.ledger.count(party="github", operation="token.exchange") == 1


async def test_github_classic_token_never_expires_and_comes_alone(github: Imitated) -> None:
    tokens = await github.connect()

    await github.control("age", days=1000)

    assert tokens.keys() == {"access_token", "token_type", "scope"}
    assert (await github.get(USER, tokens["access_token"])).status_code == 200


async def test_github_separates_granted_scopes_by_commas(github: Imitated) -> None:
    assert (await github.connect(scope="repo user:email"))["scope"] == "repo,user:email"


async def test_github_leaves_out_scopes_that_another_includes(github: Imitated) -> None:
    assert (await github.connect(scope="user:email user repo"))["scope"] == "user,repo"


async def test_github_may_grant_more_or_less_than_was_asked(github: Imitated) -> None:
    await github.control("settings", extra_scopes=["gist"], withheld_scopes=["repo"])

    assert (await github.connect(scope="repo user:email"))["scope"] == "user:email,gist"


async def test_github_expiring_token_lives_8_hours_and_refreshes_6_months(expiring: Imitated) -> None:
    tokens = await expiring.connect()

    assert tokens["expires_in"] == 28800
    assert 15_897_590 <= tokens["refresh_token_expires_in"] <= 15_897_600


async def test_github_offline_access_makes_a_token_expire(github: Imitated) -> None:
    tokens = await github.connect(scope="repo offline_access")

    assert (tokens["expires_in"], tokens["scope"]) == (28800, "repo")
    assert "refresh_token" in tokens


async def test_github_refresh_rotates_and_ends_the_old_access_token(expiring: Imitated) -> None:
    first = await expiring.connect()

    second = (await expiring.refresh(first["refresh_token"])).json()
    again = (await expiring.refresh(first["refresh_token"])).json()

    assert second["refresh_token"] != first["refresh_token"]
    assert (await expiring.get(USER, first["access_token"])).status_code == 401
    assert again["error"] == "bad_refresh_token"
    assert (await expiring.get(USER, second["access_token"])).status_code == 200


async def test_github_refresh_token_dies_after_6_months(expiring: Imitated) -> None:
    tokens = await expiring.connect()

    await expiring.control("age", days=185)

    assert (await expiring.refresh(tokens["refresh_token"])).json()["error"] == "bad_refresh_token"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": "sbx-code-unknown"}, "bad_verification_code"),
        ({"code_verifier": "w" * 64}, "bad_verification_code"),
        ({"client_secret": "wrong"}, "incorrect_client_credentials"),
        ({"redirect_uri": REDIRECT_URI + "/"}, "redirect_uri_mismatch"),
    ],
)
async def test_github_exchange_refused_is_200_with_an_error(
    github: Imitated, changes: dict[str, str], error: str
) -> None:
    code = (await github.decide())["code"]

    response = await github.exchange(changes.pop("code", code), **changes)

    assert (response.status_code, response.json()["error"]) == (200, error)


async def test_github_refused_is_a_form_too(github: Imitated) -> None:
    response = await github.exchange("sbx-code-unknown", accept="*/*")

    assert parse_qs(response.text)["error"] == ["bad_verification_code"]


async def test_github_user_has_a_number_and_no_email(github: Imitated) -> None:
    tokens = await github.connect()

    response = await github.get(USER, tokens["access_token"])

    assert isinstance(response.json()["id"], int)
    assert response.json()["email"] is None
    assert response.headers["x-oauth-scopes"] == "repo, user:email"


async def test_github_user_with_a_public_email_shows_it(github: Imitated) -> None:
    await github.control("settings", public_email=True)
    tokens = await github.connect()

    assert (await github.get(USER, tokens["access_token"])).json()["email"] == "ada@example.com"


async def test_github_emails_mark_the_primary_one_and_need_the_scope(github: Imitated) -> None:
    allowed, other = await github.connect(), await github.connect(scope="repo")

    told = (await github.get(EMAILS, allowed["access_token"])).json()

    assert [one["email"] for one in told if one["primary"] and one["verified"]] == ["ada@example.com"]
    assert len(told) > 1
    assert (await github.get(EMAILS, other["access_token"])).status_code == 404


async def test_github_delete_grant_ends_every_token_of_the_account(github: Imitated) -> None:
    first, second = await github.connect(), await github.connect()

    deleted = await github.delete(GRANT, {"access_token": first["access_token"]})
    again = await github.delete(GRANT, {"access_token": first["access_token"]})

    assert (deleted.status_code, again.status_code) == (204, 404)
    assert (await github.get(USER, second["access_token"])).status_code == 401


async def test_github_delete_token_ends_that_token_alone(github: Imitated) -> None:
    first, second = await github.connect(), await github.connect()

    deleted = await github.delete(TOKEN, {"access_token": first["access_token"]})

    assert deleted.status_code == 204
    assert (await github.get(USER, first["access_token"])).json()["message"] == "Bad credentials"
    assert (await github.get(USER, second["access_token"])).status_code == 200


@pytest.mark.parametrize("body", [{}, {"access_token": 1}, []])
async def test_github_delete_without_a_token_is_422(github: Imitated, body: Any) -> None:
    assert (await github.delete(GRANT, body)).status_code == 422


async def test_github_delete_by_a_stranger_is_401(github: Imitated) -> None:
    tokens = await github.connect()

    response = await github.delete(GRANT, {"access_token": tokens["access_token"]}, httpx.BasicAuth(CLIENT_ID, "x"))

    assert response.status_code == 401
    assert (await github.get(USER, tokens["access_token"])).status_code == 200


async def test_github_login_names_the_account(github: Imitated) -> None:
    first = await github.connect(account="", login="grace@example.com")

    assert (await github.get(USER, first["access_token"])).json()["login"] == "grace"
