"""A receiver of webhooks for tests: a few lines of HTTP on a free port of loopback, which answer as a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import svix
from standardwebhooks import Webhook

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, **headers: str) -> bytes:
    """Build a whole answer without a body; underscores in header names stand for hyphens."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}Content-Length: 0\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Received:
    """One request that the receiver got; header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    def verify(self, secret: str) -> None:
        """Raise an error unless both libraries, Standard Webhooks' and Svix's, accept the message under `secret`."""
        Webhook(secret).verify(self.body, self.headers)
        svix.Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """A receiver that keeps its requests. It answers them with `answers` in turn, then with `otherwise`, once
    `may_answer` is set; a request whose answer is None gets no reply."""

    port: int = 0
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    answers: list[bytes | None] = field(default_factory=list)
    otherwise: bytes | None = OK
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every request."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Set from the beginning; a test clears it to hold answers back."""
    _open: set["asyncio.Task[Any]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def url_of(self, host: str) -> str:
        """Return the receiver's URL under the name `host`."""
        return f"{self.scheme}://{host}:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection with one request."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(line, headers, body))
            self.arrived.set()
            reply = self.answers.pop(0) if self.answers else self.otherwise
            if reply is None:
                await reader.read()
            else:
                await self.may_answer.wait()
                writer.write(reply)
                await writer.drain()

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def end(self) -> None:
        """Drop all connections that still wait for an answer."""
        waiting = list(self._open)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver within the block, with https if `tls` is given."""
    receiver = Receiver(scheme="http" if tls is None else "https")
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.end()
