"""Tests of `ClerkDirectory`, which reads Clerk's Backend API through Clerk's SDK: what it reads (the sandbox stands in
for Clerk), and what it makes of each failure."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.sandbox.app import create_app
from services.sandbox.faults import Fault
from services.sandbox.state import Sandbox
from services.user_management.exceptions import ClerkRefusedError, RetryLaterError
from services.user_management.http_client import HttpClient, create_http_client
from services.user_management.integrations.clerk_api import MAX_PAGE_BYTES, ClerkDirectory

REPOSITORY = Path(__file__).resolve().parents[3]
KEY = SecretStr("sk_test_any")

# The SDK reads a field that it has deprecated itself, on every list.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:clerk_backend_api")


@pytest.fixture
def clerk_sandbox() -> Sandbox:
    """Make a sandbox for this test alone, since the tests count its users."""
    return Sandbox(base_url="http://clerk.test")


@pytest.fixture
async def http(clerk_sandbox: Sandbox) -> AsyncIterator[HttpClient]:
    async with create_http_client(httpx.ASGITransport(app=create_app(clerk_sandbox))) as client:
        yield client


def _directory(http: HttpClient, *, secret_key: SecretStr = KEY, **options: Any) -> ClerkDirectory:
    return ClerkDirectory(api_url="http://clerk.test/clerk/v1", secret_key=secret_key, http=http, **options)


@pytest.fixture
def directory(http: HttpClient) -> ClerkDirectory:
    return _directory(http)


def _answering(response: httpx.Response) -> ClerkDirectory:
    """Return a directory that gets `response` to every call."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, stream=response.stream)

    return _directory(create_http_client(httpx.MockTransport(answer)))


async def test_list_users_pages_are_oldest_first_and_without_overlap(
    clerk_sandbox: Sandbox, directory: ClerkDirectory
) -> None:
    ids = [clerk_sandbox.clerk.create_user(created_at=1_700_000_000_000 + number)["id"] for number in range(5)]

    pages = [await directory.list_users(offset=offset, limit=2) for offset in (0, 2, 4, 6)]

    assert [[user["id"] for user in page] for page in pages] == [ids[:2], ids[2:4], ids[4:], []]


async def test_users_are_what_a_webhook_carries(clerk_sandbox: Sandbox, directory: ClerkDirectory) -> None:
    user = clerk_sandbox.clerk.create_user(email="zoë@example.com", first_name="Zoë 🎈", phone="+441632960000")

    assert await directory.list_users(offset=0, limit=10) == [user]
    assert await directory.get_user(user["id"]) == user


@pytest.mark.parametrize(
    "novelty",
    [
        {"object": "person"},
        {"created_at": None},
        {"banned": "temporarily"},
        {"email_addresses": [{"verification": {"strategy": "telepathy", "status": "assumed"}}]},
        {"deprovisioned": True, "brand_new": {"member": 1}},
    ],
)
async def test_user_unlike_the_sdks_models_is_read_as_it_is(novelty: dict[str, Any]) -> None:
    user = {"id": "user_1", **novelty}

    assert await _answering(httpx.Response(200, json=[user])).list_users(offset=0, limit=10) == [user]
    assert await _answering(httpx.Response(200, json=user)).get_user("user_1") == user


async def test_user_with_text_that_postgres_refuses_is_made_storable() -> None:
    body = b'[{"id": "user_1", "first_name": "A\\u0000da \\ud800"}]'

    (user,) = await _answering(httpx.Response(200, content=body)).list_users(offset=0, limit=10)

    assert user["first_name"] == "A\ufffdda \ufffd"


async def test_existing_asks_for_a_hundred_ids_a_call(clerk_sandbox: Sandbox, directory: ClerkDirectory) -> None:
    present = [clerk_sandbox.clerk.create_user()["id"] for _ in range(150)]
    absent = [f"user_absent{number}" for number in range(55)]
    clerk_sandbox.clerk.create_user()

    assert await directory.existing(present + absent) == set(present)
    assert clerk_sandbox.ledger.count("clerk", "users.list") == 3


async def test_existing_of_nobody_asks_nothing(clerk_sandbox: Sandbox, directory: ClerkDirectory) -> None:
    clerk_sandbox.clerk.create_user()

    assert await directory.existing([]) == set()
    assert clerk_sandbox.ledger.count() == 0


async def test_existing_answered_without_the_filter_proves_nothing() -> None:
    unfiltered = httpx.Response(200, json=[{"id": "user_1"}, {"id": "user_other"}])

    with pytest.raises(RetryLaterError):
        await _answering(unfiltered).existing(["user_1", "user_2"])


async def test_request_carries_the_secret_key_and_wants_no_compression(
    clerk_sandbox: Sandbox, http: HttpClient, directory: ClerkDirectory
) -> None:
    sent: list[httpx.Headers] = []

    async def note(request: httpx.Request) -> None:
        sent.append(request.headers)

    http.event_hooks["request"].append(note)
    await directory.list_users(offset=0, limit=1)

    (headers,) = sent
    assert headers["authorization"] == "Bearer sk_test_any"
    assert headers["accept-encoding"] == "identity"


async def test_get_user_that_clerk_does_not_have_is_none(directory: ClerkDirectory) -> None:
    assert await directory.get_user("user_nobody") is None


async def test_get_user_whose_id_looks_like_a_path_never_reads_another(
    clerk_sandbox: Sandbox, http: HttpClient
) -> None:
    victim = clerk_sandbox.clerk.create_user()["id"]
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.url.raw_path.decode())

    http.event_hooks["request"].append(note)
    with pytest.raises(RetryLaterError):
        await _directory(http).get_user(f"x/../{victim}")

    assert asked == [f"/clerk/v1/users/x%2F..%2F{victim}"]


async def test_get_user_answered_with_another_is_no_answer() -> None:
    with pytest.raises(RetryLaterError):
        await _answering(httpx.Response(200, json={"id": "user_other"})).get_user("user_1")


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(404, json={"message": "no Route matched with those values"}),
        httpx.Response(404, json={"errors": "none"}),
        httpx.Response(404, json={"errors": ["none"]}),
        httpx.Response(403, html="<h1>Just a moment…</h1>"),
        httpx.Response(302, headers={"Location": "https://elsewhere.example"}),
        httpx.Response(500, json={"errors": [{"code": "internal_clerk_error"}]}),
        httpx.Response(503),
        httpx.Response(200, html="<h1>Maintenance</h1>"),
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, json=None),
        httpx.Response(200, json={"errors": []}),
        httpx.Response(200, json=[None]),
        httpx.Response(200, json=[{"id": 7}]),
        httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip")),
    ],
    ids=lambda response: f"{response.status_code} {response.headers.get('content-type')}",
)
async def test_answer_that_is_not_clerks_is_tried_later(response: httpx.Response) -> None:
    with pytest.raises(RetryLaterError):
        await _answering(response).list_users(offset=0, limit=10)
    with pytest.raises(RetryLaterError):
        await _answering(response).get_user("user_1")


async def test_page_without_end_is_not_read_to_the_end() -> None:
    endless = httpx.Response(200, content=b'[{"id": "user_1"}]' + b" " * MAX_PAGE_BYTES)

    with pytest.raises(RetryLaterError, match="ResponseTooLargeError"):
        await _answering(endless).list_users(offset=0, limit=10)


@pytest.mark.parametrize("action", ["reset", "reset_mid_body", "truncated_json", "html", "oversize"])
async def test_broken_connection_or_body_is_tried_later(
    clerk_sandbox: Sandbox, directory: ClerkDirectory, action: Any
) -> None:
    user_id = clerk_sandbox.clerk.create_user()["id"]
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.*", action=action, times=3))

    with pytest.raises(RetryLaterError):
        await directory.list_users(offset=0, limit=10)
    with pytest.raises(RetryLaterError):
        await directory.existing([user_id])
    with pytest.raises(RetryLaterError):
        await directory.get_user(user_id)

    assert [user["id"] for user in await directory.list_users(offset=0, limit=10)] == [user_id]


@pytest.mark.parametrize("status", [500, 503])
async def test_server_error_is_not_retried_in_the_call(
    clerk_sandbox: Sandbox, directory: ClerkDirectory, status: int
) -> None:
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.list", action="status", status=status, times=9))

    with pytest.raises(RetryLaterError):
        await directory.list_users(offset=0, limit=10)

    assert clerk_sandbox.ledger.count("clerk", "users.list") == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 1), ("999999", 3600), ("9" * 5000, 10), ("Wed, 21 Oct 2026 07:28:00 GMT", 10), ("-3", 10)],
    ids=lambda value: str(value)[:8],
)
async def test_rate_limit_says_when_to_come_again(header: str, seconds: int) -> None:
    limited = httpx.Response(429, headers={"Retry-After": header}, json={"errors": [{"code": "too_many_requests"}]})

    with pytest.raises(RetryLaterError) as raised:
        await _answering(limited).get_user("user_1")

    assert raised.value.retry_after == seconds


async def test_call_that_hangs_ends_after_its_time(clerk_sandbox: Sandbox, http: HttpClient) -> None:
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.get", action="delay", delay_seconds=3600))
    directory = _directory(http, call_seconds=0.05)

    async with asyncio.timeout(5):
        with pytest.raises(RetryLaterError, match="TimeoutError"):
            await directory.get_user("user_1")


async def test_wrong_secret_key_is_for_the_operator_and_not_shown(http: HttpClient) -> None:
    directory = _directory(http, secret_key=SecretStr("pk_wrong_kind"))

    with pytest.raises(ClerkRefusedError, match="401 authentication_invalid") as raised:
        await directory.list_users(offset=0, limit=10)

    assert "pk_wrong_kind" not in raised.value.detail


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401),
        httpx.Response(403, text="no"),
        httpx.Response(400, json={"errors": [{"code": "form_param_unknown"}]}),
        httpx.Response(422, json={"errors": [{"code": "form_param_format_invalid"}]}),
    ],
    ids=lambda response: str(response.status_code),
)
async def test_refusal_of_what_we_ask_is_for_the_operator(response: httpx.Response) -> None:
    with pytest.raises(ClerkRefusedError, match=str(response.status_code)):
        await _answering(response).get_user("user_1")


async def test_close_leaves_a_client_that_was_given(http: HttpClient, directory: ClerkDirectory) -> None:
    await directory.aclose()

    assert not http.is_closed


async def test_directory_on_its_own_client_cannot_be_used_once_closed() -> None:
    directory = ClerkDirectory(api_url="http://127.0.0.1:9/v1", secret_key=KEY)
    with pytest.raises(RetryLaterError, match="ConnectError"):
        await directory.get_user("user_1")

    await directory.aclose()

    with pytest.raises(RuntimeError, match="closed"):
        await directory.get_user("user_1")


@pytest.mark.slow
def test_sdk_is_not_imported_by_the_api() -> None:
    program = "import sys, services.user_management.main; sys.exit('clerk_backend_api' in sys.modules)"

    finished = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False, capture_output=True)

    assert finished.returncode == 0, finished.stderr
