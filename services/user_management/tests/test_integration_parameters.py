"""Tests of the parameters that name an integration in a path and a query: on every route alike, a text that cannot be a
provider's or an account's name is refused."""

import pytest

from services.user_management.tests.scenes import Connected, Headers, assert_problem

ROUTES = [
    ("GET", "/users/me/integrations/{provider}"),
    ("PATCH", "/users/me/integrations/{provider}"),
    ("DELETE", "/users/me/integrations/{provider}"),
    ("PUT", "/users/me/integrations/{provider}/refresh"),
    ("GET", "/users/me/integrations/{provider}/activity"),
    ("GET", "/users/me/integrations/{provider}/diagnose"),
    ("GET", "/users/me/integrations/{provider}/diagnose?live=true"),
    ("POST", "/users/me/integrations/{provider}/authorize"),
    ("POST", "/users/me/integrations/{provider}"),
    ("GET", "/oauth/callback/{provider}?state=x"),
]
WITH_ACCOUNT = [(method, path) for method, path in ROUTES if method != "POST" and "activity" not in path][:-1]


async def _status(connected: Connected, method: str, path: str) -> tuple[int, str]:
    confirms = method == "POST" and "authorize" not in path
    body = None if method in {"GET", "DELETE"} else {"code": "x", "state": "x" * 43} if confirms else {}
    response = await connected.journey.client.request(method, path, headers=connected.headers, json=body)
    return response.status_code, response.json()["type"]


@pytest.mark.parametrize("name", ["%00", "a%00b", "Google", "a" * 33, "%F0%9F%98%80", "a%20b"])
async def test_malformed_provider_is_refused_on_every_route(connected: Connected, name: str) -> None:
    answers = {route: await _status(connected, route[0], route[1].format(provider=name)) for route in ROUTES}

    assert set(answers.values()) == {(422, "validation_failed")}, answers


async def test_provider_that_is_not_configured_is_unknown_on_every_route_but_diagnose(connected: Connected) -> None:
    routes = [route for route in ROUTES if "diagnose" not in route[1] and "activity" not in route[1]]

    answers = {route: await _status(connected, route[0], route[1].format(provider="myspace")) for route in routes}

    assert set(answers.values()) == {(404, "unknown_provider")}, answers


@pytest.mark.parametrize("account", ["%00", "a%00b", "", "a" * 321, "%E2%80%AE"])
async def test_account_that_is_not_one_line_is_refused_on_every_route(connected: Connected, account: str) -> None:
    paths = {(method, path.format(provider=connected.provider)) for method, path in WITH_ACCOUNT}

    answers = {
        route: await _status(connected, route[0], f"{route[1]}{'&' if '?' in route[1] else '?'}account={account}")
        for route in paths
    }

    assert set(answers.values()) == {(422, "validation_failed")}, answers


@pytest.mark.parametrize("rest", ["%00/diagnose", "sandbox-static/diagnose?account=%00", "Google/diagnose"])
async def test_malformed_name_is_refused_for_admins_too(connected: Connected, admin: Headers, rest: str) -> None:
    path = f"/admin/users/{connected.user_id}/integrations/{rest}"

    assert_problem(await connected.journey.client.get(path, headers=admin), 422, "validation_failed")
