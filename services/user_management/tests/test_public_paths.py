"""Tests of the paths that a reverse proxy keeps from the internet: the document for operators lists each of them, and
each is served under one spelling only, since a proxy compares paths as they are sent."""

import re

import httpx
import pytest
from fastapi import FastAPI

from services.user_management.middleware.prefix import OPERATOR_PATHS
from services.user_management.tests.routes import DOCUMENTATION, all_routes
from services.user_management.tests.scenes import Connected, assert_problem
from services.user_management.tests.test_documentation import OPERATIONS, prose

INTERNET, STAFF, PRIVATE = "the internet", "where admins and siblings are", "the private network"
READ = "/internal/tokens/get"


def documented_areas() -> dict[str, str]:
    """Return, by path, who may reach it according to the document for operators; `/…` at the end of a path stands for
    everything below."""
    rows = re.findall(
        r"^\| ((?:`[^`]+`(?:, )?)+) \| ([^|]+) \|$", prose(OPERATIONS).split("| path | let in from |")[1], re.MULTILINE
    )
    return {path: who for paths, who in rows for path in re.findall(r"`([^`]+)`", paths)}


def covers(area: str, path: str) -> bool:
    return path.startswith(area.removesuffix("…")) if area.endswith("/…") else path == area


def test_operators_are_told_of_each_route_once_who_may_reach_it(app: FastAPI) -> None:
    areas = documented_areas()
    paths = {route.partition(" ")[2] for route in all_routes(app) | DOCUMENTATION}

    assert set(areas.values()) == {INTERNET, STAFF, PRIVATE}
    assert {path: sum(covers(area, path) for area in areas) for path in paths} == dict.fromkeys(paths, 1)
    assert [area for area in areas if not any(covers(area, path) for path in paths)] == []


def test_operators_are_told_the_private_paths_that_the_prefix_leaves_out() -> None:
    private = {f"/{area.split('/')[1]}" for area, who in documented_areas().items() if who == PRIVATE}

    assert private == OPERATOR_PATHS


@pytest.mark.parametrize("path", sorted(OPERATOR_PATHS - {"/internal"}))
async def test_operator_path_is_served_in_its_plain_spelling_alone(client: httpx.AsyncClient, path: str) -> None:
    encoded = f"/%{ord(path[1]):02x}{path[2:]}"

    plain = await client.get(path)

    assert plain.status_code == 200
    for spelling in (f"/api/v1{path}", encoded, f"/api/v1{encoded}", f"/api/v1%2f{path[1:]}", f"/%61pi/v1{path}"):
        assert_problem(await client.get(spelling), 404, "not_found")


@pytest.mark.parametrize(
    "spelling",
    [
        f"/api/v1{READ}",
        "/%69nternal/tokens/get",
        "/internal%2Ftokens/get",
        "/internal/%74okens/get",
        "/internal/tokens/ge%74",
        "/api/v1/%69nternal/tokens/get",
        "/api/v1%2Finternal/tokens/get",
        "/%61pi/v1/internal/tokens/get",
    ],
)
async def test_token_is_read_at_the_plain_path_alone(connected: Connected, spelling: str) -> None:
    body = {"user_id": connected.user_id, "provider": connected.provider}

    plain = await connected.journey.client.post(READ, headers=connected.key, json=body)
    hidden = await connected.journey.client.post(spelling, headers=connected.key, json=body)

    assert plain.status_code == 200, plain.text
    assert_problem(hidden, 404, "not_found")


async def test_admin_path_cannot_be_hidden_by_its_encoding(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/admin/users"), 401, "unauthenticated")
    for spelling in ("/%61dmin/users", "/admin%2Fusers", "/api/v1/%61dmin/users"):
        assert_problem(await client.get(spelling), 404, "not_found")


async def test_percent_encoded_id_of_a_user_is_the_id(connected: Connected) -> None:
    encoded = connected.user_id.replace("_", "%5F")

    for path in (f"/users/{encoded}", f"/api/v1/users/{encoded}"):
        response = await connected.journey.client.get(path, headers=connected.headers)
        assert response.json()["id"] == connected.user_id
