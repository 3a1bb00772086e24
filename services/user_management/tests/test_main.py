"""Tests of the application as a whole: every error is a problem document, every answer carries its headers, health and
readiness tell the truth, and so does the OpenAPI document."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.user_management import main
from services.user_management.cli.openapi import print_schema
from services.user_management.container import Container
from services.user_management.main import create_app
from services.user_management.settings import Environment, Settings
from services.user_management.tests.conftest import API_URL
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem

REPOSITORY = Path(__file__).resolve().parents[3]
TOKENS = "/internal/tokens/get"
ORIGIN = "http://localhost:3000"


async def test_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    for path in (
        "/",
        "/nowhere",
        "/users",
        "/users/me/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/api/v1/health",
        "/API/V1/health",
    ):
        assert_problem(await client.get(path), 404, "not_found")


async def test_unknown_method_is_a_problem_that_names_the_known(client: httpx.AsyncClient) -> None:
    response = await client.delete("/health")

    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


async def test_path_under_the_version_prefix_is_the_same(connected: Connected) -> None:
    client = connected.journey.client

    profile = await client.get("/api/v1/users/me", headers=connected.headers)
    stranger = await client.get("/api/v1/users/me")

    assert profile.json() == (await client.get("/users/me", headers=connected.headers)).json()
    assert_problem(stranger, 401, "unauthenticated")


@pytest.mark.parametrize("given", ["r1", "a.b_c-D9", "x" * 64])
async def test_request_id_of_the_caller_is_kept(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/users/me", headers={"X-Request-ID": given})

    assert response.headers.get_list("x-request-id") == [given]
    assert response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "a\tb", "<script>", "\u00e9", 'a"b', "a,b"])
async def test_request_id_of_another_shape_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/users/me", headers=[(b"x-request-id", given.encode())])

    (made,) = response.headers.get_list("x-request-id")
    assert made != given
    assert len(made) == 32
    assert response.json()["request_id"] == made


@pytest.mark.parametrize("path", ["/health", "/users/me", "/nowhere", "/openapi.json"])
async def test_answer_carries_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "server" not in headers
    assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    ("environment", "enabled", "status"),
    [
        (Environment.PRODUCTION, None, 404),
        (Environment.PRODUCTION, True, 200),
        (Environment.DEVELOPMENT, None, 200),
        (Environment.DEVELOPMENT, False, 404),
    ],
)
async def test_documentation_is_served_in_production_on_demand_alone(
    settings: Settings, container: Container, *, environment: Environment, enabled: bool | None, status: int
) -> None:
    chosen = settings.model_copy(
        update={"environment": environment, "docs": settings.docs.model_copy(update={"enabled": enabled})}
    )
    application = create_app(chosen, container)
    application.state.container = container

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url=API_URL) as client:
        for path in ("/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == status


async def test_answer_in_production_demands_https(settings: Settings, container: Container) -> None:
    application = create_app(settings.model_copy(update={"environment": Environment.PRODUCTION}), container)
    application.state.container = container

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url=API_URL) as client:
        response = await client.get("/health")

    assert response.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"


async def test_documentation_page_may_load_its_scripts(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")

    assert response.status_code == 200
    assert "content-security-policy" not in response.headers


async def test_browser_of_a_known_origin_may_call_and_read(client: httpx.AsyncClient) -> None:
    asked = await client.options(
        "/users/me",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        },
    )
    answered = await client.get("/users/me", headers={"Origin": ORIGIN})

    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == answered.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in answered.headers
    assert "X-Request-ID" in answered.headers["access-control-expose-headers"]


async def test_browser_of_another_origin_may_not(client: httpx.AsyncClient) -> None:
    for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example"):
        response = await client.get("/health", headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers


@pytest.fixture
async def crashing(settings: Settings, container: Container) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the application with two routes added: `/crash` has a bug, and `/outage` finds Postgres down."""
    application = create_app(settings, container)
    application.state.container = container

    @application.get("/crash")
    async def crash() -> None:
        raise RuntimeError("the cause, with a secret: hunter22")

    @application.get("/outage")
    async def outage() -> None:
        raise ConnectionRefusedError("postgres is at 10.0.0.7")

    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=API_URL) as client:
        yield client


async def test_crash_is_a_problem_and_its_cause_stays_in_the_log(
    crashing: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    response = await crashing.get("/crash", headers={"Origin": ORIGIN, "X-Request-ID": "crash-1"})

    assert_problem(response, 500, "internal_error")
    assert "hunter22" not in response.text
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    logged = capsys.readouterr().out
    assert "request.crashed" in logged
    assert "RuntimeError: the cause" in logged


async def test_outage_of_the_database_is_a_problem_that_says_when_to_come_again(crashing: httpx.AsyncClient) -> None:
    response = await crashing.get("/outage", headers={"Origin": ORIGIN})

    assert_problem(response, 503, "database_unavailable")
    assert "10.0.0.7" not in response.text
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_health_awaits_nothing(app: FastAPI) -> None:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/health",
        "raw_path": b"/health",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    # The coroutine must end in one step: if it awaited a thread or the database, it would be suspended.
    with pytest.raises(StopIteration):
        app(scope, receive, send).send(None)

    assert sent[0]["status"] == 200


async def test_health_tells_the_last_known_state(client: httpx.AsyncClient, container: Container) -> None:
    await container.operations.health.probe()

    response = await client.get("/health")

    assert response.json() == {"status": "ok", "database": "ok", "redis": "ok", "rate_limiter": "shared"}


@pytest.mark.parametrize("phase", ["starting", "draining"])
async def test_ready_is_refused_while_starting_and_draining(
    client: httpx.AsyncClient, container: Container, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    serving = await client.get("/ready")
    monkeypatch.setattr(container.operations.health, "_phase", lambda: phase)

    response = await client.get("/ready")

    assert (serving.status_code, serving.json()["status"]) == (200, "ready")
    assert response.status_code == 503
    assert response.json() == {"status": phase, "database": "ok", "redis": "ok"}
    assert (await client.get("/health")).status_code == 200


def test_schema_is_the_committed_one(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    committed = (REPOSITORY / "documentation" / "openapi.json").read_text(encoding="utf-8")

    print_schema()

    assert capsys.readouterr().out == committed, (
        "python -m services.user_management.cli openapi > documentation/openapi.json"
    )
    assert app.openapi() == json.loads(committed)


def test_schema_names_each_operation_once(app: FastAPI) -> None:
    operations = [operation for item in app.openapi()["paths"].values() for operation in item.values()]

    names = [operation["operationId"] for operation in operations]

    assert len(names) == len(set(names))
    assert all(name.isidentifier() and name.islower() for name in names)


def test_schema_lists_the_refusals_of_each_operation(app: FastAPI) -> None:
    document = app.openapi()
    responses = document["components"]["responses"]
    paths = document["paths"]

    listed = paths["/users/{user_id}"]["delete"]["responses"]
    codes = {
        status: set(answer["$ref"].rpartition("/")[2].split(".")) for status, answer in listed.items() if status > "4"
    }

    assert all("default" not in operation["responses"] for item in paths.values() for operation in item.values())
    assert codes["403"] == {"cross_site_request", "impersonation_refused", "session_pending", "user_inactive"}
    assert codes["404"] == {"user_not_found"}
    assert codes["412"] == {"precondition_failed"}
    described = responses["user_not_found"]["content"]["application/problem+json"]["schema"]
    assert described["allOf"][0] == {"$ref": "#/components/schemas/Problem"}
    assert described["properties"] == {"type": {"enum": ["user_not_found"]}}
    exchange = paths["/internal/oauth/token"]["post"]["responses"]
    assert set(exchange) == {"200", "400", "401", "413", "429", "500", "502", "503"}
    assert set(exchange["401"]["content"]) == {"application/json"}
    assert {"type", "title", "status", "detail", "message", "details", "timestamp", "request_id"} == set(
        document["components"]["schemas"]["Problem"]["required"]
    )


def test_schema_declares_the_entity_tag_of_what_is_edited_conditionally(app: FastAPI) -> None:
    items = app.openapi()["paths"].values()
    edited = [item for item in items for method in ("put", "patch") if "if-match" in _headers(item.get(method, {}))]
    reads = [item["get"]["responses"] for item in edited if "get" in item]
    edits = [item[method]["responses"] for item in edited for method in ("put", "patch") if method in item]

    assert len(edits) >= 5
    assert all("ETag" in responses["200"]["headers"] for responses in [*reads, *edits])


def test_schema_declares_the_condition_of_what_may_be_not_modified(app: FastAPI) -> None:
    operations = [operation for item in app.openapi()["paths"].values() for operation in item.values()]
    conditional = [operation for operation in operations if "304" in operation["responses"]]

    assert len(conditional) == 3
    assert all("if-none-match" in _headers(operation) for operation in conditional)
    assert all(
        "ETag" in operation["responses"][code]["headers"] for operation in conditional for code in ("200", "304")
    )


def test_schema_names_the_statuses_of_a_connection(app: FastAPI) -> None:
    status = app.openapi()["components"]["schemas"]["IntegrationResponse"]["properties"]["status"]

    assert status["enum"] == ["active", "degraded", "needs_reauth", "revoked"]


def _headers(operation: dict[str, Any]) -> set[str]:
    """Return the names of the request headers that an operation declares."""
    return {item["name"] for item in operation.get("parameters", []) if item["in"] == "header"}


@pytest.mark.slow
def test_import_needs_no_environment(tmp_path: Path) -> None:
    script = (
        "import services.user_management.main as m, services.user_management.settings as s\n"
        "assert s.get_settings.cache_info().currsize == 0\n"
        "assert callable(m.create_app)\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "ENVIRONMENT": "production", "PORT": "nonsense"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}

    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert finished.returncode == 0, finished.stderr


def test_attribute_app_is_the_application_and_no_other_name_is() -> None:
    assert isinstance(main.app, FastAPI)
    with pytest.raises(AttributeError):
        _ = main.application


async def test_requests_at_once_keep_their_contexts_apart(journey: Journey) -> None:
    people = [await journey.sign_up(f"user{number}@example.com") for number in range(10)]
    path = "/users/me/integrations/sandbox-static/authorize"

    await asyncio.gather(
        *(journey.client.post(path, headers={**one.headers, "X-Request-ID": one.id}, json={}) for one in people)
    )

    rows = await journey.owner.fetch(
        "SELECT user_id, actor_id, request_id FROM audit_logs WHERE action = 'integration.connect_started'"
    )
    assert {tuple(row) for row in rows} == {(one.id, one.id, one.id) for one in people}
