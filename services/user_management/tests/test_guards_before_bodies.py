"""Tests of how much of a body is read, on every route that takes one: no byte before the credential in the headers is
checked, then up to the route's limit; and of clients that hang up in their body."""

import json
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import pytest
from fastapi import FastAPI
from starlette.types import Message
from structlog.testing import capture_logs

from services.sandbox.clerk.webhooks import encode_event
from services.user_management.container import Container
from services.user_management.core.parsing import AT_ONCE_BYTES, parse_aside
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.routers import token_exchange
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.journey import Journey
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.routes import all_routes
from services.user_management.tests.scenes import Connected, Headers, assert_problem

BODY_METHODS = ("POST", "PUT", "PATCH")
PLACES = {
    "user_id": "me",
    "provider": "google",
    "name": "some-service",
    "key_id": "0" * 12,
    "subscription_id": "00000000-0000-7000-8000-000000000000",
}
UNKNOWN_KEY = {"Authorization": f"Bearer ums_{'0' * 12}_{'0' * 64}"}
KIBIBYTE = 1024


class Exchange:
    """One request over ASGI. The application gets the next of `messages` each time it asks for more of the body;
    `reads` counts how often it has asked."""

    def __init__(self, app: FastAPI, route: str, headers: Mapping[str, str], *, messages: list[Message]) -> None:
        self._app = app
        method, template = route.split(" ")
        path = template.format(**PLACES)
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.7", 4000),
            "server": ("testserver", 80),
            "state": {},
        }
        self._messages = messages
        self.reads = 0
        self.status: int | None = None
        self.body = b""

    async def run(self) -> None:
        """Run the request to its end. Raises any exception that leaves the application."""
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self.reads += 1
        return self._messages.pop(0)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


def _chunks(*parts: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]


def _routes_with_a_body(app: FastAPI) -> list[str]:
    return sorted(route for route in all_routes(app) if route.startswith(BODY_METHODS))


@pytest.mark.parametrize("media_type", ["application/json", "text/plain"])
async def test_stranger_is_refused_on_every_route_before_the_body_is_read(
    app: FastAPI, clean_database: None, media_type: str
) -> None:
    reads: dict[str, int] = {}
    statuses: dict[str, int | None] = {}

    for route in _routes_with_a_body(app):
        exchange = Exchange(app, route, {"content-type": media_type, "content-length": "9"}, messages=_chunks(b"{"))
        await exchange.run()
        reads[route], statuses[route] = exchange.reads, exchange.status

    assert len(reads) > 20
    assert reads == dict.fromkeys(reads, 0)
    # Webhooks have no credential but the signature, whose headers are malformed when they are missing.
    assert statuses == dict.fromkeys(statuses, 401) | {"POST /webhooks/clerk": 400}


FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("headers", [{"authorization": "Basic nonsense"}, {"x-api-key": "nonsense"}])
async def test_token_exchange_refuses_a_bad_credential_of_a_header_before_the_form_is_read(
    app: FastAPI, clean_database: None, headers: dict[str, str]
) -> None:
    exchange = Exchange(app, "POST /internal/oauth/token", FORM | headers, messages=_chunks(b"a=b"))

    await exchange.run()

    assert (exchange.status, exchange.reads) == (401, 0)


async def test_webhook_of_last_week_is_refused_before_the_body_is_read(app: FastAPI, journey: Journey) -> None:
    headers = journey.sandbox.clerk.sign(b"{}") | {"svix-timestamp": "1700000000"}
    exchange = Exchange(app, "POST /webhooks/clerk", headers, messages=_chunks(b"{}"))

    await exchange.run()

    assert (exchange.status, exchange.reads) == (401, 0)


@pytest.fixture
def one_webhook(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow each sender one webhook an hour that cannot be verified, counted in this process alone."""
    policies = container.resources.settings.limits.policies() | {RateClass.WEBHOOK: QuotaPolicy(1, 3600)}
    nowhere = create_redis_client("unix:///nowhere/valkey.sock")
    limits = RateLimits(nowhere, policies, container.resources.clock)
    replace_in_group(monkeypatch, container, "resources", rate_limits=limits)


@pytest.mark.parametrize("announced", [True, False])
async def test_sender_of_too_many_bad_webhooks_is_read_up_to_64_kib(
    app: FastAPI, journey: Journey, one_webhook: None, *, announced: bool
) -> None:
    body = _chunks(*[b" " * 32 * KIBIBYTE] * 32)
    headers = journey.sandbox.clerk.sign(b"something else")
    if announced:
        headers["content-length"] = str(1024 * KIBIBYTE)
    exchanges = [Exchange(app, "POST /webhooks/clerk", headers, messages=list(body)) for _ in range(3)]

    for exchange in exchanges:
        await exchange.run()

    # The second one tells this process that the sender has to wait.
    assert [exchange.status for exchange in exchanges] == [401, 429, 429]
    assert [exchange.reads for exchange in exchanges] == [32, 32, 0 if announced else 3]


async def test_signed_webhook_is_read_however_many_bad_ones_its_sender_sent(
    app: FastAPI, journey: Journey, one_webhook: None
) -> None:
    for _ in range(2):
        await Exchange(app, "POST /webhooks/clerk", journey.sandbox.clerk.sign(b""), messages=_chunks(b"{}")).run()
    body = encode_event(journey.sandbox.clerk.event("user.created", journey.sandbox.clerk.create_user()))

    signed = Exchange(app, "POST /webhooks/clerk", journey.sandbox.clerk.sign(body), messages=_chunks(body))
    await signed.run()

    assert signed.status == 200


async def test_webhook_that_is_too_large_counts_against_its_sender(
    app: FastAPI, journey: Journey, one_webhook: None
) -> None:
    headers = journey.sandbox.clerk.sign(b"something else")
    body = _chunks(*[b" " * 64 * KIBIBYTE] * 17)
    exchanges = [Exchange(app, "POST /webhooks/clerk", headers, messages=list(body)) for _ in range(2)]

    for exchange in exchanges:
        await exchange.run()

    assert [exchange.status for exchange in exchanges] == [413, 429]


@pytest.mark.parametrize("announced", [True, False])
async def test_form_of_more_than_8_kib_is_refused_when_no_header_has_a_key(
    app: FastAPI, clean_database: None, *, announced: bool
) -> None:
    headers = FORM | ({"content-length": str(8 * KIBIBYTE + 1)} if announced else {})
    exchange = Exchange(app, "POST /internal/oauth/token", headers, messages=_chunks(*[b"a" * 4 * KIBIBYTE] * 4))

    await exchange.run()

    assert exchange.status == 413
    assert exchange.reads == (0 if announced else 3)


async def test_large_form_is_parsed_in_a_thread(
    app: FastAPI, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def recorded(*arguments: Any, **options: Any) -> list[tuple[str, str]]:
        threads.append(threading.get_ident())
        return parse_qsl(*arguments, **options)

    monkeypatch.setattr(token_exchange, "parse_qsl", recorded)

    await Exchange(
        app, "POST /internal/oauth/token", {**FORM, **connected.key}, messages=_chunks(b"%41" * AT_ONCE_BYTES)
    ).run()

    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_batch_of_a_key_that_nobody_holds_is_refused_before_the_body_is_read(
    app: FastAPI, clean_database: None
) -> None:
    headers = {"content-type": "application/json", **UNKNOWN_KEY}
    exchange = Exchange(app, "POST /internal/tokens/batch-get", headers, messages=_chunks(b"{}"))

    await exchange.run()

    assert (exchange.status, exchange.reads) == (401, 0)


async def _key(connected: Connected, path: str) -> Headers:
    return connected.key if path.startswith("/internal") else connected.headers


@pytest.mark.parametrize("path", ["/internal/tokens/get", "/internal/oauth/token", "/users/me/integrations/google"])
@pytest.mark.parametrize("announced", [True, False])
async def test_body_of_more_than_64_kib_is_refused_on_routes_that_do_not_ask_for_more(
    app: FastAPI, connected: Connected, path: str, *, announced: bool
) -> None:
    headers = {"content-type": "application/json", **await _key(connected, path)}
    if path.endswith("oauth/token"):
        headers |= FORM
    if announced:
        headers["content-length"] = str(64 * KIBIBYTE + 1)
    exchange = Exchange(app, f"POST {path}", headers, messages=_chunks(*[b" " * 32 * KIBIBYTE] * 4))

    await exchange.run()

    assert exchange.status == 413
    # The token exchange has its errors in OAuth's form.
    assert "The body is larger than 64 KiB." in json.loads(exchange.body).values()
    assert exchange.reads == (0 if announced else 3)


async def test_batch_of_more_than_64_kib_is_read(connected: Connected) -> None:
    wanted = {"user_id": connected.user_id, "provider": connected.provider}
    document = json.dumps({"items": [wanted]}).encode().ljust(128 * KIBIBYTE)
    headers = {**connected.key, "Content-Type": "application/json"}

    response = await connected.journey.client.post("/internal/tokens/batch-get", headers=headers, content=document)

    assert response.status_code == 200, response.text


async def test_body_of_more_values_than_are_worth_reading_is_refused(connected: Connected) -> None:
    document = b'{"items": [' + b"[]," * 100_000 + b"[]]}"
    headers = {**connected.key, "Content-Type": "application/json"}

    response = await connected.journey.client.post("/internal/tokens/batch-get", headers=headers, content=document)

    assert_problem(response, 400, "invalid_json")


async def test_body_with_a_thousand_errors_is_told_of_the_first_hundred(journey: Journey) -> None:
    person = await journey.sign_up()
    document = {f"unknown_{number}": 1 for number in range(1000)}

    response = await journey.client.patch("/users/me", headers=person.headers, json=document)

    body = assert_problem(response, 422, "validation_failed")
    assert len(body["details"]["errors"]) == 100


async def test_small_document_is_parsed_at_once_and_a_large_one_in_a_thread() -> None:
    def thread_of(_raw: bytes) -> int:
        return threading.get_ident()

    assert await parse_aside(thread_of, bytes(AT_ONCE_BYTES)) == threading.get_ident()
    assert await parse_aside(thread_of, bytes(AT_ONCE_BYTES + 1)) != threading.get_ident()


ABANDONED = (
    "PATCH /users/{user_id}",
    "POST /internal/tokens/get",
    "POST /internal/oauth/token",
    "POST /webhooks/clerk",
)


@pytest.mark.parametrize("route", ABANDONED)
async def test_client_that_hangs_up_in_its_body_is_one_line_and_no_crash(
    app: FastAPI, connected: Connected, route: str
) -> None:
    credential = {
        "PATCH /users/{user_id}": connected.headers,
        "POST /webhooks/clerk": connected.journey.sandbox.clerk.sign(b"{"),
    }.get(route, connected.key)
    headers = {"content-type": "application/json", "content-length": "100", **credential}
    if route.endswith("oauth/token"):
        headers |= FORM
    cut_off: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    exchange = Exchange(app, route, headers, messages=cut_off)

    with capture_logs() as lines:
        await exchange.run()

    told = [(line["event"], line["log_level"], line["status"]) for line in lines]
    assert told == [("request.completed", "info", 499)]
    assert exchange.status is None
