"""Fixtures that run a test with the synchronous and with the asynchronous token client, against a stand-in for the user
management service; and a clock that the test sets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest

from services.auth_client import AsyncTokenClient, ClientOptions, Token, TokenClient, TokenError, TokenRequest
from services.auth_client.tests.service_stand_in import KEY, ServiceStandIn

QUICK = ClientOptions(backoff_seconds=0.001)


class ManualClock:
    """A clock in seconds that stands still until a test changes `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class EitherClient:
    """Either client behind the same asynchronous methods; the synchronous one runs in a thread."""

    def __init__(
        self, client: TokenClient | AsyncTokenClient, http: httpx.Client | httpx.AsyncClient | None = None
    ) -> None:
        """Wrap `client`. `http`, if given, is the HTTP client that `client` uses and that `close` is to close too."""
        self.client = client
        self._http = http

    async def get(self, user_id: str = "user_ada", provider: str = "google", **more: Any) -> Token:
        if isinstance(self.client, AsyncTokenClient):
            return await self.client.get(user_id, provider, **more)
        return await asyncio.to_thread(self.client.get, user_id, provider, **more)

    async def refresh(self, user_id: str = "user_ada", provider: str = "google", **more: Any) -> Token:
        if isinstance(self.client, AsyncTokenClient):
            return await self.client.refresh(user_id, provider, **more)
        return await asyncio.to_thread(self.client.refresh, user_id, provider, **more)

    async def get_many(self, requests: Iterable[TokenRequest]) -> list[Token | TokenError]:
        if isinstance(self.client, AsyncTokenClient):
            return await self.client.get_many(requests)
        return await asyncio.to_thread(self.client.get_many, requests)

    async def close(self) -> None:
        if isinstance(self.client, AsyncTokenClient):
            await self.client.aclose()
        else:
            self.client.close()
        if isinstance(self._http, httpx.AsyncClient):
            await self._http.aclose()
        elif self._http is not None:
            self._http.close()


MakeClient = Callable[..., EitherClient]
BeforeRequest = Callable[[], None] | None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stopped_service() -> Iterator[ServiceStandIn]:
    """Provide a stand-in that is bound to a port and refuses connections until `listen`."""
    stand_in = ServiceStandIn()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def service(stopped_service: ServiceStandIn) -> ServiceStandIn:
    stopped_service.listen()
    return stopped_service


@pytest.fixture(params=["sync", "async"])
async def make_client(request: pytest.FixtureRequest, stopped_service: ServiceStandIn) -> AsyncIterator[MakeClient]:
    """Provide a function that makes clients, synchronous or asynchronous as the fixture's parameter says, and close
    them after the test. `before_request` is called before each attempt."""
    make_kind = _make_sync if request.param == "sync" else _make_async
    made: list[EitherClient] = []

    def make(options: ClientOptions = QUICK, *, before_request: BeforeRequest = None) -> EitherClient:
        made.append(make_kind(stopped_service.url, options, before_request))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def client(make_client: MakeClient, service: ServiceStandIn) -> EitherClient:
    return make_client()


def _make_sync(url: str, options: ClientOptions, before_request: BeforeRequest) -> EitherClient:
    http = httpx.Client(event_hooks={"request": [lambda _: before_request()]}) if before_request else None
    return EitherClient(TokenClient(url, KEY, http=http, options=options), http)


def _make_async(url: str, options: ClientOptions, before_request: BeforeRequest) -> EitherClient:
    async def hook(_: httpx.Request) -> None:
        if before_request:
            before_request()

    http = httpx.AsyncClient(event_hooks={"request": [hook]}) if before_request else None
    return EitherClient(AsyncTokenClient(url, KEY, http=http, options=options), http)
