"""Rate limits as a caller sees them: each answer of a limited route says how many requests are left, and is a 429 if
none was."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from services.user_management.auth.principals import remember_principal
from services.user_management.auth.rate_limits import anonymous_limit, sign_in_limit, user_limit, webhook_limit
from services.user_management.core.clock import SystemClock
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.middleware.problems import HANDLERS
from services.user_management.middleware.request_context import RequestContextMiddleware
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import RedisClient
from services.user_management.tests.rate_limits.allowances import POLICIES


async def sign_in_as(request: Request, user: str) -> None:
    """Stand in for the dependency that authenticates a user: make the user whose id is in the route's path the
    principal of the request, without any check."""
    remember_principal(request, Principal(PrincipalKind.USER, user))


@pytest.fixture
async def http(redis: RedisClient) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client for an application behind the service's middleware, whose routes have different rate limits. The
    client has an address that no other test uses."""
    app = FastAPI(exception_handlers=HANDLERS)
    app.state.container = SimpleNamespace(
        resources=SimpleNamespace(rate_limits=RateLimits(redis, POLICIES, SystemClock()))
    )
    app.add_middleware(RequestContextMiddleware, strict_transport=False)

    async def answer() -> str:
        return "ok"

    routes: dict[str, list[Callable[..., Awaitable[None]]]] = {
        "/user/{user}": [sign_in_as, user_limit],
        "/anonymous": [anonymous_limit],
        "/webhook": [webhook_limit],
        "/both": [anonymous_limit, sign_in_limit],
        "/delivery": [webhook_limit, sign_in_limit],
        "/neither": [],
    }
    for path, guards in routes.items():
        app.get(path, dependencies=[Depends(guard) for guard in guards])(answer)
    async with AsyncExitStack() as exits:
        # An address of its own for each test.
        address = f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
        transport = httpx.ASGITransport(app=app, client=(address, 40000))
        yield await exits.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://service.test"))


async def test_answer_says_what_is_left(http: httpx.AsyncClient, key: str) -> None:
    first, second = [await http.get(f"/user/{key}") for _ in range(2)]

    assert first.headers["RateLimit-Policy"] == second.headers["RateLimit-Policy"] == '"user";q=100;w=60'
    assert (first.headers["RateLimit"], second.headers["RateLimit"]) == ('"user";r=99;t=1', '"user";r=98;t=2')


async def test_uncounted_route_says_nothing(http: httpx.AsyncClient) -> None:
    await http.get("/anonymous")

    response = await http.get("/neither")

    assert "ratelimit" not in response.headers
    assert "ratelimit-policy" not in response.headers


async def test_refusal_is_a_problem_with_each_header_once(http: httpx.AsyncClient) -> None:
    found = [await http.get("/anonymous") for _ in range(4)]

    assert [response.status_code for response in found] == [200, 200, 200, 429]
    refused = found[-1]
    assert refused.json()["type"] == "rate_limited"
    assert refused.headers.get_list("Retry-After") == ["20"]
    assert refused.headers.get_list("RateLimit") == ['"anonymous";r=0;t=20']
    assert refused.headers.get_list("RateLimit-Policy") == ['"anonymous";q=3;w=60']


async def test_users_of_one_address_do_not_share(http: httpx.AsyncClient, key: str) -> None:
    await http.get(f"/user/{key}")

    assert (await http.get(f"/user/{key}-other")).headers["RateLimit"] == '"user";r=99;t=1'


async def test_two_classes_in_one_request_both_count_and_the_last_one_is_told(http: httpx.AsyncClient) -> None:
    found = [await http.get("/both") for _ in range(3)]

    assert [response.headers.get_list("RateLimit") for response in found] == [
        ['"sign-in";r=4;t=12'],
        ['"sign-in";r=3;t=24'],
        ['"sign-in";r=2;t=36'],
    ]
    assert (await http.get("/anonymous")).status_code == 429


async def test_refusal_by_the_second_class_tells_of_the_second_class_alone(http: httpx.AsyncClient) -> None:
    await asyncio.gather(*(http.get("/delivery") for _ in range(5)))

    refused = await http.get("/delivery")

    assert refused.status_code == 429
    assert refused.headers.get_list("RateLimit") == ['"sign-in";r=0;t=12']
    assert refused.headers.get_list("RateLimit-Policy") == ['"sign-in";q=5;w=60']
