"""Tests of request bodies: their largest size, the accepted media types, and strict JSON, which every parser reads
alike."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from services.user_management.core.context import DEFAULT_BODY_BYTES
from services.user_management.middleware.body_limit import MAX_BODY_BYTES
from services.user_management.schemas.token import TokenBatchRequest, TokenRequest
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem
from services.user_management.utils import strict_json

TOKENS = "/internal/tokens/get"


async def _caller(journey: Journey, path: str) -> dict[str, str]:
    """Return headers of a caller who may call `path`: others are refused before their body is read."""
    return await journey.service_key() if path == TOKENS else (await journey.sign_up()).headers


@pytest.mark.parametrize("path", [TOKENS, "/webhooks/clerk", "/health", "/nowhere"])
async def test_body_that_is_announced_too_large_is_refused_unread(client: httpx.AsyncClient, path: str) -> None:
    headers = {"Content-Length": str(MAX_BODY_BYTES + 1), "Content-Type": "application/json"}

    response = await client.request("POST", path, headers=headers, content=b"")

    assert_problem(response, 413, "body_too_large")


@pytest.mark.parametrize("length", ["-1", "1e3", "\u0661", ""])
async def test_body_of_a_nonsense_length_is_refused(client: httpx.AsyncClient, length: str) -> None:
    headers = [(b"content-length", length.encode()), (b"content-type", b"application/json")]

    response = await client.request("POST", TOKENS, headers=headers, content=b"{}")

    assert_problem(response, 400, "bad_request")


@pytest.mark.parametrize(("path", "limit"), [(TOKENS, DEFAULT_BODY_BYTES), ("/webhooks/clerk", MAX_BODY_BYTES)])
async def test_body_that_grows_too_large_is_refused_on_the_way(journey: Journey, path: str, limit: int) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * 65_536

    headers = {"Content-Type": "application/json"} | journey.sandbox.clerk.sign(b"") | await journey.service_key()
    response = await journey.client.post(path, headers=headers, content=chunks())

    assert_problem(response, 413, "body_too_large")
    assert sent <= limit // 65_536 + 1


async def test_body_of_just_the_largest_size_is_read(connected: Connected) -> None:
    document = json.dumps({"user_id": connected.user_id, "provider": connected.provider}).encode()
    headers = {**connected.key, "Content-Type": "application/json"}

    response = await connected.journey.client.post(TOKENS, headers=headers, content=document.ljust(DEFAULT_BODY_BYTES))

    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 422),
        ("application/json; charset=utf-8", 422),
        ("Application/JSON", 422),
        ("application/merge-patch+json", 422),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("text/json+json", 415),
        ("", 415),
    ],
)
@pytest.mark.parametrize("path", [TOKENS, "/users/me/integrations/sandbox-static"])
async def test_body_of_another_media_type_is_refused(journey: Journey, path: str, media_type: str, status: int) -> None:
    caller = await _caller(journey, path)
    headers = caller | {"Content-Type": media_type}

    response = await journey.client.post(path, headers=headers, content=b'{"surprise": "s3cr3t"}')

    code = "unsupported_media_type" if status == 415 else "validation_failed"
    body = assert_problem(response, status, code)
    assert "s3cr3t" not in response.text
    assert status == 415 or all(set(error) == {"loc", "msg", "type"} for error in body["details"]["errors"])


NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b"   ",
    "half": b'{"user_id": ',
    "two documents": b"{} {}",
    "comment": b"{/* */}",
    "single quotes": b"{'user_id': 'x'}",
    "trailing comma": b'{"user_id": "x",}',
    "NaN": b'{"min_ttl_seconds": NaN}',
    "Infinity": b'{"min_ttl_seconds": -Infinity}',
    "duplicate key": b'{"user_id": "a", "user_id": "b"}',
    "duplicate key further down": b'{"scopes": [{"a": 1, "a": 1}]}',
    "duplicate key in another spelling": b'{"user_id": "a", "user\\u005fid": "b"}',
    "33 deep": b"[" * 33 + b"]" * 33,
    "60,000 deep": b"[" * 60_000,
    "10,000 objects deep": b'{"a":' * 10_000,
    "8,192 commas": b'{"scopes": [' + b"0," * 8191 + b"0]}",
    "1,025 members": json.dumps(dict.fromkeys(map(str, range(1025)))).encode(),
    "latin-1": '{"user_id": "é"}'.encode("latin-1"),
    "UTF-16": '{"user_id": "x"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"user_id": "x"}',
    "surrogate in UTF-8": b'{"user_id": "\xed\xa0\x80"}',
    "overlong UTF-8": b'{"user_id": "\xc0\xaf"}',
    "10,000 digits": b'{"min_ttl_seconds": ' + b"9" * 10_000 + b"}",
    "1e400": b'{"min_ttl_seconds": 1e400}',
    "control character": b'{"user_id": "a\x00b"}',
}


@pytest.mark.parametrize("case", NOT_JSON)
@pytest.mark.parametrize("path", [TOKENS, "/users/me/integrations/sandbox-static/authorize"])
async def test_body_that_is_not_strict_json_is_refused(journey: Journey, path: str, case: str) -> None:
    caller = await _caller(journey, path)
    headers = caller | {"Content-Type": "application/json"}

    response = await journey.client.post(path, headers=headers, content=NOT_JSON[case])

    assert_problem(response, 400, "invalid_json")


def test_largest_batch_that_the_schema_allows_is_strict_json() -> None:
    scopes = [f"https://www.googleapis.com/auth/scope.{number}" for number in range(64)]
    item = TokenRequest(user_id="u" * 64, provider="google", scopes=scopes, min_ttl_seconds=60, reason="a, b, c, d")
    batch = TokenBatchRequest(items=[item] * 100)

    assert TokenBatchRequest.model_validate(strict_json.loads(batch.model_dump_json().encode())) == batch


@pytest.mark.parametrize("media_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("path", [TOKENS, "/users/me/integrations/sandbox-static/authorize"])
async def test_stranger_with_a_broken_body_is_a_stranger_first(
    client: httpx.AsyncClient, path: str, media_type: str
) -> None:
    response = await client.post(path, headers={"Content-Type": media_type}, content=b"{")

    assert_problem(response, 401, "unauthenticated")
