"""Tests that routes take exactly the query parameters, numbers, times and methods that the OpenAPI document
describes."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers, assert_problem

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXCHANGE = "/internal/oauth/token"


def _refused_parameters(response: httpx.Response) -> list[tuple[str, str]]:
    body = assert_problem(response, 422, "validation_failed")
    return [(error["loc"][1], error["type"]) for error in body["details"]["errors"] if error["loc"][0] == "query"]


def _sessions_and_keys(operation: dict[str, Any], session: Headers, key: Headers) -> Headers:
    schemes = {name for alternative in operation.get("security", []) for name in alternative}
    return session if "session" in schemes else key if schemes else {}


async def test_no_route_takes_a_query_parameter_that_it_does_not_know(
    journey: Journey, connected: Connected, app: FastAPI, admin: Headers
) -> None:
    answered = {}
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            session = admin if "admin" in operation["tags"] or path.startswith("/webhook-s") else connected.headers
            session = admin if path == "/users/search" else session
            url = re.sub(r"\{(\w+)\}", lambda found: {"user_id": "me", "provider": "google"}.get(found[1], "x"), path)
            headers = _sessions_and_keys(operation, session, connected.key)
            response = await journey.client.request(method.upper(), f"{url}?surprise=1", headers=headers)
            answered[f"{method.upper()} {path}"] = response

    # Each of these needs something else that this caller does not send, and is refused for that first.
    others = {"POST /webhooks/clerk": 400, "POST /internal/users/batch-get": 403, "GET /oauth/callback/{provider}": 422}
    refused = {
        route: (response.status_code, "surprise" in response.text)
        for route, response in answered.items()
        if route not in others
    }
    wrong = {
        route: answer
        for route, answer in refused.items()
        if answer != ((400, True) if route.endswith(EXCHANGE) else (422, True))
    }
    assert wrong == {}
    assert {route: answered[route].status_code for route in others} == others


async def test_parameter_that_is_there_twice_is_refused(journey: Journey, admin: Headers) -> None:
    response = await journey.client.get("/users/search?limit=1&limit=2&limt=1&status=active", headers=admin)

    assert _refused_parameters(response) == [("limt", "unknown_parameter"), ("limit", "doubled_parameter")]


async def test_stranger_hears_of_the_credential_and_not_of_the_query(journey: Journey) -> None:
    for path in ("/users/me", "/users/search", "/admin/users", "/users/me/integrations"):
        assert_problem(await journey.client.get(f"{path}?surprise=1"), 401, "unauthenticated")


async def test_callback_takes_what_providers_add_but_nothing_twice(journey: Journey) -> None:
    path = "/oauth/callback/sandbox-static?state=unknown&code=x&session_state=1&authuser=0"

    added, twice = await journey.client.get(path), await journey.client.get(f"{path}&code=y")

    # Only the unknown state is refused, and not the parameters that the provider added.
    assert_problem(added, 404, "flow_not_found")
    assert _refused_parameters(twice) == [("code", "doubled_parameter")]


async def test_method_that_a_path_does_not_have_is_refused_with_those_it_has(journey: Journey, app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    refused = [(path, method) for path in paths for method in METHODS if method.lower() not in paths[path]]

    for path, method in refused:
        response = await journey.client.request(method, re.sub(r"\{\w+\}", "x", path))
        assert response.status_code == 405, (method, path)
        allowed = [name for name in METHODS if name.lower() in paths[path]]
        assert response.headers["allow"] == ", ".join(allowed), (method, path)


@pytest.mark.parametrize("moment", ["0.5", "1700000000", "2026-01-01", "yesterday"])
@pytest.mark.parametrize("name", ["created_before", "created_after"])
async def test_time_that_is_no_text_of_rfc_3339_is_refused(
    journey: Journey, admin: Headers, name: str, moment: str
) -> None:
    assert _refused_parameters(await journey.client.get(f"/users/search?{name}={moment}", headers=admin)) == [
        (name, "time_format")
    ]


@pytest.mark.parametrize(("seconds", "status"), [("219.0", 201), ("219", 201), ("219.5", 422), ('"219"', 422)])
async def test_whole_number_is_an_integer_however_it_is_written(
    journey: Journey, admin: Headers, seconds: str, status: int
) -> None:
    created = await journey.client.post("/admin/services", headers=admin, json={"name": "target"})
    assert created.status_code == 201, created.text

    response = await journey.client.post(
        "/admin/services/target/keys",
        headers=admin | {"Content-Type": "application/json"},
        content=f'{{"overlap_seconds": {seconds}}}',
    )

    assert response.status_code == status, response.text


async def test_limit_may_be_written_with_a_fraction_of_nothing(journey: Journey, admin: Headers) -> None:
    assert (await journey.client.get("/users/search?limit=19.0", headers=admin)).status_code == 200
    assert (await journey.client.get("/users/search?limit=19.5", headers=admin)).status_code == 422


def test_document_says_whom_to_ask(app: FastAPI) -> None:
    assert app.openapi()["info"]["contact"]["name"]
