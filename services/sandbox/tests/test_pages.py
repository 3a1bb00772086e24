"""The sandbox's pages for people (sign-in and overview), the address of the service that they show, its health check
and its OpenAPI schema."""

import re

import httpx
import jwt

from services.sandbox.state import Sandbox


async def test_sign_in_page_creates_a_user_and_signs_in(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    created = await client.post("/sign-in/users", data={"email": "ada@example.com", "first_name": "Ada"})
    (user,) = sandbox.clerk.users()

    signed_in = await client.post("/sign-in", data={"user_id": user["id"]})

    assert created.headers["location"] == "/sign-in"
    assert "ada@example.com" in (await client.get("/sign-in")).text
    token = re.search(r"Bearer (\S+?)&#x27; (\S+)/users/me", signed_in.text)
    assert token is not None
    assert jwt.decode(token[1], sandbox.clerk.public_key_pem, algorithms=["RS256"])["sub"] == user["id"]
    assert token[2] == "http://127.0.0.1:8000"


async def test_sign_in_page_escapes_names(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    sandbox.clerk.create_user(first_name="<script>alert(1)</script>")

    assert "<script>" not in (await client.get("/sign-in")).text


async def test_sign_in_of_unknown_user_is_404(client: httpx.AsyncClient) -> None:
    assert (await client.post("/sign-in", data={"user_id": "user_x"})).status_code == 404


async def test_overview_lists_the_kinds(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert all(f"/oidc/{kind}" in response.text for kind in ("static", "overlap", "grace", "strict"))


async def test_health_is_200(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}


async def test_openapi_schema_builds(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).status_code == 200


def test_api_url_is_the_origin_of_the_webhook_url() -> None:
    assert Sandbox(webhook_url="http://127.0.0.1:9999/webhooks/clerk").api_url == "http://127.0.0.1:9999"
