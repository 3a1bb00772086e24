"""Tests of hostile strings in every place that takes text: each is refused or kept as it is, and none causes a crash or
forges a line of the log."""

import asyncio
import io
import json
import logging
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import structlog
from fastapi import FastAPI

from services.user_management.core.context import DEFAULT_BODY_BYTES
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import ServicePermission
from services.user_management.logging_config import configure_logging
from services.user_management.schemas.webhook_subscription import CreateSubscriptionRequest
from services.user_management.services.clerk_events import MAX_NAME_CHARACTERS
from services.user_management.services.token_service import USER_ID
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.naughty_strings import NAUGHTY
from services.user_management.tests.request_places import Place, places, prepare
from services.user_management.tests.scenes import Headers
from services.user_management.utils.strict_json import storable

pytestmark = pytest.mark.slow

SEED: Final = 7
FEW: Final = 20
ALL: Final = len(NAUGHTY)
PROVIDER: Final = "sandbox-static"
READ: Final = "/internal/tokens/get"
EXCHANGE: Final = "/internal/oauth/token"
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
EVERY_STRING_NIGHTLY = pytest.mark.parametrize("count", [FEW, pytest.param(ALL, marks=pytest.mark.nightly)])


def some(count: int, chance: random.Random) -> Iterable[tuple[str, str]]:
    """Return `count` of the hostile strings, chosen by `chance`, each as its name and its text."""
    return chance.sample(sorted(NAUGHTY.items()), count)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Configure logging as in production, and give the stream that the log is written to."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(level="INFO", json_lines=True, stream=stream)
    # Loggers of modules outlive this test and must not keep its configuration.
    structlog.configure(cache_logger_on_first_use=False)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


async def lines_of(log: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines of the log, parsed. Fails unless every line is a JSON object with an `event`."""
    await asyncio.sleep(0)  # the lines of requests are written in the next round of the loop
    lines = log.getvalue().split("\n")
    assert lines.pop() == ""
    parsed = [json.loads(line) for line in lines]
    assert all(isinstance(line, dict) and isinstance(line["event"], str) for line in parsed)
    return parsed


class Stage:
    """Sends good requests with a hostile text in one place. `set_up` makes what the rest of a request names: a
    connected administrator, a second user, services, a subscription, and a connect attempt under way."""

    def __init__(self, journey: Journey, session: Headers, service: Headers, good: dict[str, Any]) -> None:
        self.journey = journey
        self._session = session
        self._service = service
        self._good = good

    @classmethod
    async def set_up(cls, journey: Journey) -> "Stage":
        person = await journey.sign_up("admin@example.com", user_id=ADMIN_USER_ID)
        other = await journey.sign_up("other@example.com")
        await journey.connect(person, PROVIDER)
        started = await journey.authorize(person, PROVIDER)
        (state,) = parse_qs(urlsplit(started["authorization_url"]).query)["state"]
        services = journey.container.service_clients
        permissions = [permission.value for permission in ServicePermission]
        key = await services.create_service(TESTER, "caller", permissions)
        await services.grant(TESTER, "caller", PROVIDER, scopes=None, reason_required=False)
        await services.create_service(TESTER, "target")
        subscription = await journey.container.events.subscriptions.create_subscription(
            Principal(PrincipalKind.USER, ADMIN_USER_ID, is_admin=True),
            CreateSubscriptionRequest(url="http://127.0.0.1:9/"),
        )
        good = {
            "user_id": person.id,
            "other_id": other.id,
            "user_ids": [person.id],
            "provider": PROVIDER,
            "state": state,
            "name": "target",
            "key_id": "0" * 12,
            "subscription_id": str(subscription.id),
            "subject_token": person.id,
            "subject_token_type": USER_ID,
            "audience": PROVIDER,
            "url": "http://127.0.0.1:9/",
        }
        return cls(journey, person.headers, {"X-API-Key": key}, good)

    async def send(self, document: dict[str, Any], place: Place, text: str) -> httpx.Response:
        good = self._good
        if place.path.startswith("/admin/users/"):
            good = good | {"user_id": good["other_id"]}
        request = prepare(document, place, text, good)
        headers = {name.encode(): value.encode() for name, value in self._credential(place).items()} | request.headers
        client = self.journey.client
        return await client.request(request.method, request.url, headers=headers, content=request.content)

    def _credential(self, place: Place) -> Headers:
        schemes = {name for alternative in place.operation.get("security", []) for name in alternative}
        if "session" in schemes:
            return self._session
        return self._service if schemes else {}


def flaws(response: httpx.Response) -> list[str]:
    """Return what is wrong with the answer to a hostile request; an empty list if nothing is."""
    found = []
    if response.status_code >= 500:
        found.append(f"status {response.status_code}")
    readable = "application/json" if response.url.path == EXCHANGE else "application/problem+json"
    if response.status_code >= 400 and response.headers["content-type"] != readable:
        found.append("no problem")
    if not REQUEST_ID.fullmatch(response.headers["x-request-id"]):
        found.append("request id")
    if any(byte < 0x20 or byte == 0x7F for name, value in response.headers.raw for byte in name + value):
        found.append("header")
    return found


def _ends_the_caller(place: Place, text: str) -> bool:
    return place.method == "DELETE" and place.path == "/users/{user_id}" and (place.kind != "path" or text == "me")


@EVERY_STRING_NIGHTLY
async def test_hostile_string_in_any_place_is_answered_without_a_crash_or_a_forged_line(
    journey: Journey, app: FastAPI, log: io.StringIO, count: int
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    stage = await Stage.set_up(journey)
    document = app.openapi()
    tried = [(place, name, text) for place in places(document) for name, text in some(count, chance)]
    tried = [(place, name, text) for place, name, text in tried if not _ends_the_caller(place, text)]
    log.truncate(log.seek(0))

    answers = [(f"{place}: {name}", await stage.send(document, place, text)) for place, name, text in tried]

    assert {name: wrong for name, answer in answers if (wrong := flaws(answer))} == {}
    completed = [line["request_id"] for line in await lines_of(log) if line["event"] == "request.completed"]
    unlogged = {answer.headers["x-request-id"] for _, answer in answers} - set(completed)
    assert len(completed) == len(set(completed))
    # Token reads that succeed are recorded in the database and not in the log.
    doors = (f"POST {READ} ", f"POST {EXCHANGE} ")
    read = [answer for name, answer in answers if name.startswith(doors) and answer.status_code == 200]
    assert unlogged == {answer.headers["x-request-id"] for answer in read}
    assert (await journey.client.get("/users/me", headers=journey.headers_of(ADMIN_USER_ID))).status_code == 200


def test_every_operation_with_text_is_tried(app: FastAPI) -> None:
    document = app.openapi()
    found = {(place.method, place.path) for place in places(document)}

    without = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "parameters" in operation or "requestBody" in operation
    } - found

    assert without == set()
    assert _text_of(document, READ) >= {"user_id", "provider", "scopes.0", "account", "reason"}
    assert _text_of(document, EXCHANGE) >= {"subject_token", "audience", "scope", "account", "reason"}


async def test_good_form_is_what_hostile_text_is_put_into(journey: Journey, app: FastAPI) -> None:
    stage = await Stage.set_up(journey)
    document = app.openapi()
    (place,) = [place for place in places(document) if (place.path, place.where) == (EXCHANGE, ("reason",))]

    answer = await stage.send(document, place, "why")

    assert (answer.status_code, answer.json()["token_type"]) == (200, "Bearer")


def _text_of(document: dict[str, Any], path: str) -> set[str]:
    return {str(place).rpartition(" ")[2] for place in places(document) if place.path == path}


def as_sent(text: str) -> str:
    """Return the text as JSON transports it: the two halves of a surrogate pair in a row become one character."""
    sent: str = json.loads(json.dumps(text))
    return sent


def kept_form(text: str) -> str:
    """Return the form in which `utils.validators.plain_line` keeps a text: without whitespace at its ends, in NFC."""
    return unicodedata.normalize("NFC", text.strip())


@pytest.mark.parametrize("field", ["first_name", "last_name", "profile_image_url", "onboarding_step"])
async def test_hostile_string_in_a_profile_is_refused_or_kept_as_it_is(
    journey: Journey, log: io.StringIO, field: str
) -> None:
    ada = await journey.sign_up()
    headers = ada.headers | {"content-type": "application/json"}
    statement = f"SELECT {field} FROM users WHERE id = $1"  # noqa: S608 - our own column names
    accepted = 0

    for name, text in NAUGHTY.items():
        body = json.dumps({field: text}).encode()
        response = await journey.client.patch("/users/me", headers=headers, content=body)
        if len(body) > DEFAULT_BODY_BYTES:
            assert response.status_code == 413, name
            continue
        assert response.status_code in {200, 422}, (name, response.text)
        if response.status_code == 200:
            accepted += 1
            stored = await journey.owner.fetchval(statement, ada.id)
            assert response.json()[field] == stored == kept_form(as_sent(text)), name
            assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", stored) is None, name

    assert 0 < accepted < len(NAUGHTY)
    await lines_of(log)


async def _tell(journey: Journey, user: dict[str, Any]) -> httpx.Response:
    """Send a signed `user.updated` about `user` and return the answer. Its body may hold half a surrogate pair, as JSON
    can."""
    clerk = journey.sandbox.clerk
    body = json.dumps(clerk.event("user.updated", user)).encode()
    headers = clerk.sign(body) | {"content-type": "application/json"}
    return await journey.client.post("/webhooks/clerk", headers=headers, content=body)


@EVERY_STRING_NIGHTLY
async def test_hostile_string_from_upstream_is_kept_as_far_as_postgres_can(
    journey: Journey, log: io.StringIO, count: int
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    ada = await journey.sign_up()

    for name, text in some(min(ALL, count * 3), chance):
        changes = {"first_name": text, "last_name": text, "image_url": text}
        told = await _tell(journey, journey.sandbox.clerk.update_user(ada.id, **changes))
        shown = await journey.client.get("/users/me", headers=ada.headers)

        assert (told.status_code, told.json()["applied"]) == (200, True), (name, told.text)
        assert shown.status_code == 200
        kept = storable(as_sent(text))
        names = {shown.json()[field] for field in ("first_name", "last_name")}
        assert names == {kept if len(kept) <= MAX_NAME_CHARACTERS else None}, name
        image = shown.json()["profile_image_url"]
        assert image is None or (image == kept and image.startswith("http")), name

    await lines_of(log)


async def test_hostile_string_in_a_header_reaches_no_header_and_no_line_of_the_log(
    journey: Journey, log: io.StringIO
) -> None:
    names = (b"x-request-id", b"traceparent", b"user-agent", b"x-forwarded-for", b"cookie", b"origin", b"host")

    for name, text in NAUGHTY.items():
        # The values are sent as bytes and straight to the application; the HTTP server would refuse most of them.
        value = text[:2000].encode(errors="surrogatepass")
        response = await journey.client.get("/auth/me", headers=[(header, value) for header in names])

        assert response.status_code == 401, name
        assert flaws(response) == [], name
        (line,) = await lines_of(log)
        assert line["request_id"] == response.headers["x-request-id"]
        log.truncate(log.seek(0))
