"""The imitation of Slack: bot tokens and user tokens, token rotation, methods of the Web API, and errors, which have
status 200 except for too many requests."""

import httpx
import pytest

from services.sandbox.faults import Fault
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import REDIRECT_URI
from services.sandbox.tests.imitated import Imitated
from services.sandbox.tests.imitated import slack as slack_of

API = "slack.com/api"
BOTH = {"scope": "chat:write,commands", "user_scope": "users:read"}


@pytest.fixture
def slack(client: httpx.AsyncClient) -> Imitated:
    return slack_of(client)


@pytest.fixture
async def rotating(slack: Imitated) -> Imitated:
    await slack.control("settings", token_rotation=True)
    return slack


async def test_slack_persons_token_is_nested_and_the_bots_at_the_top(slack: Imitated) -> None:
    tokens = await slack.connect(**BOTH)

    user = tokens["authed_user"]
    assert (tokens["ok"], tokens["token_type"], user["token_type"]) == (True, "bot", "user")
    assert (tokens["scope"], user["scope"]) == ("chat:write,commands", "users:read")
    assert tokens["access_token"].startswith("xoxb-sbx-at-")
    assert user["access_token"].startswith("xoxp-sbx-at-")


async def test_slack_for_a_person_alone_has_nothing_at_the_top(slack: Imitated) -> None:
    tokens = await slack.connect()

    assert "access_token" not in tokens
    assert tokens["authed_user"]["scope"] == "users:read,channels:history"
    assert not {"refresh_token", "expires_in"} & tokens["authed_user"].keys()


async def test_slack_for_a_bot_alone_names_the_person_only(slack: Imitated) -> None:
    tokens = await slack.connect(scope="chat:write", user_scope="")

    assert tokens["token_type"] == "bot"
    assert tokens["authed_user"].keys() == {"id"}


async def test_slack_with_rotation_tokens_live_12_hours_and_refresh_once(rotating: Imitated) -> None:
    first = (await rotating.connect())["authed_user"]

    second = (await rotating.refresh(first["refresh_token"])).json()
    again = await rotating.refresh(first["refresh_token"])

    assert (first["expires_in"], second["expires_in"]) == (43200, 43200)
    assert first["refresh_token"].startswith("xoxe-1-sbx-rt-")
    assert (second["ok"], second["token_type"], "authed_user" in second) == (True, "user", False)
    assert (again.status_code, again.json()) == (200, {"ok": False, "error": "invalid_refresh_token"})
    assert (await rotating.refresh(second["refresh_token"])).json()["ok"] is True


async def test_slack_bot_and_person_refresh_apart(rotating: Imitated) -> None:
    tokens = await rotating.connect(**BOTH)

    bot = (await rotating.refresh(tokens["refresh_token"])).json()
    user = (await rotating.refresh(tokens["authed_user"]["refresh_token"])).json()

    assert (bot["token_type"], bot["scope"]) == ("bot", "chat:write,commands")
    assert (user["token_type"], user["scope"]) == ("user", "users:read")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": "sbx-code-unknown"}, "invalid_code"),
        ({"client_secret": "wrong"}, "bad_client_secret"),
        ({"redirect_uri": REDIRECT_URI + "/"}, "bad_redirect_uri"),
    ],
)
async def test_slack_exchange_refused_is_200_and_not_ok(slack: Imitated, changes: dict[str, str], error: str) -> None:
    code = (await slack.decide())["code"]

    response = await slack.exchange(changes.pop("code", code), **changes)

    assert (response.status_code, response.json()) == (200, {"ok": False, "error": error})


async def test_slack_unknown_refresh_token_is_invalid_refresh_token(slack: Imitated) -> None:
    assert (await slack.refresh("xoxe-1-unknown")).json() == {"ok": False, "error": "invalid_refresh_token"}


async def test_slack_auth_test_names_person_and_workspace(slack: Imitated) -> None:
    tokens = await slack.connect()
    user = tokens["authed_user"]

    told = (await slack.get(f"{API}/auth.test", user["access_token"])).json()

    assert (told["ok"], told["user_id"], told["team_id"]) == (True, user["id"], tokens["team"]["id"])


@pytest.mark.parametrize(
    ("reason", "error"), [("revoked_by_user", "token_revoked"), ("account_inactive", "account_inactive")]
)
async def test_slack_dead_token_says_why(slack: Imitated, reason: str, error: str) -> None:
    user = (await slack.connect())["authed_user"]

    await slack.control("revoke", account="ada@example.com", reason=reason)
    response = await slack.get(f"{API}/auth.test", user["access_token"])

    assert (response.status_code, response.json()) == (200, {"ok": False, "error": error})


async def test_slack_tokens_that_are_unknown_expired_or_missing_are_told_apart(rotating: Imitated) -> None:
    user = (await rotating.connect())["authed_user"]
    await rotating.control("expire")

    expired = await rotating.get(f"{API}/auth.test", user["access_token"])
    unknown = await rotating.get(f"{API}/auth.test", "xoxp-unknown")
    missing = await rotating.client.post(f"/as/{API}/auth.test")

    errors = [answer.json()["error"] for answer in (expired, unknown, missing)]
    assert errors == ["token_expired", "invalid_auth", "not_authed"]


async def test_slack_revoke_ends_the_token_it_is_asked_with(rotating: Imitated) -> None:
    tokens = await rotating.connect(**BOTH)
    user = tokens["authed_user"]
    bearer = {"Authorization": f"Bearer {user['access_token']}"}

    first = (await rotating.client.post(f"/as/{API}/auth.revoke", headers=bearer)).json()
    second = (await rotating.client.post(f"/as/{API}/auth.revoke", headers=bearer)).json()

    assert first == {"ok": True, "revoked": True}
    assert second == {"ok": False, "error": "token_revoked"}
    assert (await rotating.refresh(user["refresh_token"])).json()["error"] == "invalid_refresh_token"
    assert (await rotating.get(f"{API}/auth.test", tokens["access_token"])).json()["ok"] is True
    assert (await rotating.refresh(tokens["refresh_token"])).json()["ok"] is True


async def test_slack_open_id_shows_the_person_if_it_was_granted(slack: Imitated) -> None:
    known = (await slack.connect(user_scope="openid,email"))["authed_user"]
    other = (await slack.connect())["authed_user"]

    told = (await slack.get(f"{API}/openid.connect.userInfo", known["access_token"])).json()
    refused = (await slack.get(f"{API}/openid.connect.userInfo", other["access_token"])).json()

    assert (told["ok"], told["sub"], told["email"]) == (True, known["id"], "ada@example.com")
    assert (refused["ok"], refused["error"], refused["needed"]) == (False, "missing_scope", "openid")


async def test_slack_identity_shows_what_was_granted(slack: Imitated) -> None:
    user = (await slack.connect(user_scope="identity.basic"))["authed_user"]

    told = (await slack.get(f"{API}/users.identity", user["access_token"])).json()

    assert told["user"] == {"name": "Ada", "id": user["id"]}


async def test_slack_too_many_requests_are_429_with_retry_after(sandbox: Sandbox, slack: Imitated) -> None:
    fault = Fault(party="slack", operation="token.refresh", action="error", error="ratelimited")
    sandbox.faults.add(fault.model_copy(update={"headers": {"Retry-After": "30"}}))

    response = await slack.refresh("xoxe-1-any")

    assert (response.status_code, response.headers["retry-after"]) == (429, "30")
    assert response.json() == {"ok": False, "error": "ratelimited"}


async def test_slack_without_any_scope_is_refused(slack: Imitated) -> None:
    assert (await slack.decide(user_scope=""))["error"] == "invalid_scope"


async def test_slack_person_may_untick_scopes(slack: Imitated) -> None:
    tokens = await slack.connect(granted_scope="users:read")

    assert tokens["authed_user"]["scope"] == "users:read"
