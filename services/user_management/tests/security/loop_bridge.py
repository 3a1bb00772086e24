"""A bridge through which schemathesis, in a thread and event loop of its own, calls the application, whose connection
pools belong to the event loop of the tests."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.user_management.tests.scenes import Headers

Credential = Callable[[bytes], Awaitable[Headers]]
"""Makes the headers that identify the caller of a request with this body."""

_IDENTIFYING = {b"authorization", b"cookie", b"x-api-key"}


class LoopBridge:
    """An ASGI application that runs `app` in the event loop in which the bridge was constructed.

    Each request gets a credential of its own, since session tokens live for a minute and a run takes longer.
    """

    def __init__(self, app: ASGIApp, credential: Credential | None = None) -> None:
        """If `credential` is None, requests keep the headers that were generated for them."""
        self._app = app
        self._credential = credential
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answering = self._answer(scope, await _read_body(receive))
        for message in await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answering, self._loop)):
            await send(message)

    async def _answer(self, scope: Scope, body: bytes) -> list[Message]:
        requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        answers: list[Message] = []

        async def receive() -> Message:
            return requests.pop() if requests else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answers.append(message)

        await self._app({**scope, "headers": await self._headers(scope, body)}, receive, send)
        return answers

    async def _headers(self, scope: Scope, body: bytes) -> list[tuple[bytes, bytes]]:
        generated: list[tuple[bytes, bytes]] = list(scope["headers"])
        if self._credential is None:
            return generated
        own = [(name.lower().encode(), value.encode()) for name, value in (await self._credential(body)).items()]
        replaced = _IDENTIFYING | {name for name, _ in own}
        return [header for header in generated if header[0].lower() not in replaced] + own


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
