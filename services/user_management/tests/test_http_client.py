"""Tests that the HTTP client of a process, which all calls to providers share, keeps no cookies."""

import httpx

from services.user_management.http_client import create_http_client


async def test_cookie_of_one_answer_is_not_sent_with_the_next_request() -> None:
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("cookie"))
        return httpx.Response(200, headers={"Set-Cookie": "user=ada; Path=/"})

    async with create_http_client(httpx.MockTransport(answer)) as client:
        for _ in range(2):
            await client.get("https://provider.example/userinfo")

    assert sent == [None, None]
