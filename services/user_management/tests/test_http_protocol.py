"""Tests of the HTTP server over real sockets: a head that is too large or too slow is refused before the application
sees it, and costs no memory; a client that is too slow with a body, or never ends it, loses its connection."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from services.user_management import http_protocol
from services.user_management.http_protocol import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PARAMETERS,
    MAX_PIPELINED,
    MAX_URL_BYTES,
    LimitedHttpProtocol,
)
from services.user_management.tests.races.conftest import until

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n"
WITH_BODY = b"POST /seen HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
WITH_LARGE_BODY = b"POST /seen HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n"
CHUNKED = b"POST /seen HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; the names in `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A client's connection, for tests that choose every byte that is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def send_all(self, pieces: list[bytes]) -> None:
        """Send the pieces one after another, until all are sent or the server ends the connection."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()

    async def answer(self) -> Answer:
        """Return the next answer. Raises IncompleteReadError or ConnectionError if the connection ends before it."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, body)

    async def is_at_its_end(self) -> bool:
        """Wait until the connection ends, and tell whether the server sent nothing more."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


Connect = Callable[[], Any]


class Seen:
    """An application that reads bodies, keeps headers and body of each request, and answers 200 once `may_answer` is
    set."""

    def __init__(self) -> None:
        self.begun = 0
        self.requests: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.requests.append((list(scope["headers"]), body))
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def has_begun(self) -> bool:
        """Tell whether the application was called."""
        return self.begun > 0


@contextlib.asynccontextmanager
async def serving(application: Any) -> AsyncIterator[tuple[Connect, ServerState]]:
    """Serve `application` by LimitedHttpProtocol on a local port. Gives a function that connects to it, and the
    server's state."""
    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, access_log=False)
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: LimitedHttpProtocol(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened: list[Connection] = []

    async def connect() -> Connection:
        opened.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
        return opened[-1]

    try:
        yield connect, state
    finally:
        for connection in opened:
            await connection.close()
        server.close()


@pytest.fixture
async def connect(app: FastAPI) -> AsyncIterator[Connect]:
    """Serve the whole service, and give a function that connects to it."""
    async with serving(app) as (connect, _):
        yield connect


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
async def connect_to_seen(seen: Seen) -> AsyncIterator[Connect]:
    async with serving(seen) as (connect, _):
        yield connect


def head_of(size: int, *, lines: int = 10) -> bytes:
    """Return a complete head of a GET request of exactly `size` bytes, filled up with `lines` headers."""
    filler = [b"x-%d: " % number for number in range(lines)]
    missing = size - len(GET) - 2 - sum(len(name) + 2 for name in filler)
    parts = [missing // lines] * (lines - 1)
    parts.append(missing - sum(parts))
    return GET + b"".join(b"%s%s\r\n" % (name, b"a" * part) for name, part in zip(filler, parts, strict=True)) + b"\r\n"


def assert_refused(answer: Answer, status: int, code: str) -> None:
    problem = json.loads(answer.body)
    assert (answer.status, problem["status"], problem["type"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == problem["request_id"]


async def test_head_of_exactly_the_limit_is_served_again_and_again(connect: Connect) -> None:
    connection = await connect()

    for _ in range(3):
        connection.send(head_of(MAX_HEAD_BYTES))
        assert (await connection.answer()).status == 200


async def test_head_of_one_byte_more_is_refused_and_the_connection_ends(connect: Connect) -> None:
    connection = await connect()

    connection.send(head_of(MAX_HEAD_BYTES + 1))

    assert_refused(await connection.answer(), 431, "head_too_large")
    assert await connection.is_at_its_end()


async def test_each_head_of_a_connection_is_counted_anew(connect: Connect) -> None:
    connection = await connect()
    connection.send(head_of(40_000))
    first = await connection.answer()

    connection.send(head_of(MAX_HEAD_BYTES + 1))

    assert first.status == 200
    assert_refused(await connection.answer(), 431, "head_too_large")


@pytest.mark.parametrize(
    ("start", "piece", "status", "code"),
    [
        (GET, b"x-a: " + b"a" * 1000 + b"\r\n", 431, "head_too_large"),
        (GET + b"x-a: ", b"a" * 10_000, 431, "head_too_large"),
        (GET, b"a" * 10_000, 431, "head_too_large"),
        (b"GET /health?", b"a" * 10_000, 414, "uri_too_long"),
        (b"", b"\r\n" * 5000, 431, "head_too_large"),
    ],
    ids=["lines", "one value", "one name", "url", "empty lines"],
)
async def test_head_without_an_end_is_refused_while_it_arrives(
    connect: Connect, start: bytes, piece: bytes, status: int, code: str
) -> None:
    connection = await connect()

    await connection.send_all([start, *[piece] * 200])

    assert_refused(await connection.answer(), status, code)


@pytest.mark.parametrize("count", [MAX_HEADERS, MAX_HEADERS + 1])
async def test_headers_are_counted(connect: Connect, count: int) -> None:
    connection = await connect()
    lines = b"".join(b"x-%d: a\r\n" % number for number in range(count - 1))

    connection.send(GET + lines + b"\r\n")

    answer = await connection.answer()
    if count > MAX_HEADERS:
        assert_refused(answer, 431, "head_too_large")
    else:
        assert answer.status == 200


@pytest.mark.parametrize("size", [MAX_URL_BYTES, MAX_URL_BYTES + 1])
async def test_url_is_measured(connect: Connect, size: int) -> None:
    connection = await connect()
    url = b"/" + b"a" * (size - 1)

    connection.send(b"GET " + url + b" HTTP/1.1\r\nhost: x\r\n\r\n")

    answer = await connection.answer()
    if size > MAX_URL_BYTES:
        assert_refused(answer, 414, "uri_too_long")
    else:
        assert answer.status == 404


@pytest.mark.parametrize("count", [MAX_PARAMETERS, MAX_PARAMETERS + 1, 4000])
async def test_query_parameters_are_counted_before_the_query_is_parsed(
    connect_to_seen: Connect, seen: Seen, count: int
) -> None:
    connection = await connect_to_seen()
    query = b"&".join([b"a"] * count)

    connection.send(b"GET /health?" + query + b" HTTP/1.1\r\nhost: x\r\n\r\n")

    answer = await connection.answer()
    if count > MAX_PARAMETERS:
        assert_refused(answer, 414, "uri_too_long")
        assert seen.requests == []
    else:
        assert answer.status == 200


UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (head_of(MAX_HEAD_BYTES + 1), "head_too_large"),
        (GET + b"x: y\r\n" * MAX_HEADERS + b"\r\n", "head_too_large"),
        (GET + b"x: y\r\n" * MAX_HEADERS + UPGRADE + b"\r\n", "head_too_large"),
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\n\r\n", "uri_too_long"),
        (b"GET /?" + b"&" * MAX_PARAMETERS + b" HTTP/1.1\r\nhost: x\r\n\r\n", "uri_too_long"),
    ],
    ids=["bytes", "headers", "headers with an upgrade", "url", "parameters"],
)
async def test_refusal_is_one_line_of_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture, head: bytes, code: str
) -> None:
    connection = await connect()

    with structlog.testing.capture_logs() as events:
        connection.send(head)
        await connection.answer()
        assert await connection.is_at_its_end()

    assert [(event["event"], event["reason"]) for event in events] == [("request.head_refused", code)]
    assert caplog.records == []


async def test_body_is_not_part_of_the_head(connect_to_seen: Connect, seen: Seen) -> None:
    connection = await connect_to_seen()
    body = b"b" * 10 * MAX_HEAD_BYTES
    length = b"content-length: %d\r\n\r\n" % len(body)

    await connection.send_all([b"POST / HTTP/1.1\r\nhost: x\r\n", length + body])

    assert (await connection.answer()).status == 200
    assert seen.requests[0][1] == body


async def test_body_of_many_small_chunks_is_read(connect_to_seen: Connect, seen: Seen) -> None:
    connection = await connect_to_seen()

    await connection.send_all([CHUNKED, b"1\r\na\r\n" * 2 * MAX_HEAD_BYTES, b"0\r\n\r\n"])

    assert (await connection.answer()).status == 200
    assert len(seen.requests[0][1]) == 2 * MAX_HEAD_BYTES


async def test_trailers_never_become_headers(connect_to_seen: Connect, seen: Seen) -> None:
    connection = await connect_to_seen()

    connection.send(CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    await connection.answer()

    assert [name for name, _ in seen.requests[0][0]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "piece",
    [b"x-a: " + b"a" * 1000 + b"\r\n", b"a" * 10_000],
    ids=["lines", "one name"],
)
async def test_trailers_without_an_end_end_the_connection(connect_to_seen: Connect, seen: Seen, piece: bytes) -> None:
    connection = await connect_to_seen()

    await connection.send_all([CHUNKED + b"1\r\na\r\n0\r\n", *[piece] * 200])

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await connection.answer()
    assert seen.requests == []


async def test_chunk_extension_without_an_end_ends_the_connection(connect_to_seen: Connect, seen: Seen) -> None:
    connection = await connect_to_seen()

    await connection.send_all([CHUNKED + b"1;x=", *[b"a" * 10_000] * 200])

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await connection.answer()
    assert seen.requests == []


async def test_requests_that_queue_up_on_one_connection_are_few(connect_to_seen: Connect, seen: Seen) -> None:
    connection = await connect_to_seen()
    connection.send((GET + b"\r\n") * (1 + MAX_PIPELINED))
    served = [(await connection.answer()).status for _ in range(1 + MAX_PIPELINED)]

    seen.may_answer.clear()
    connection.send((GET + b"\r\n") * (2 + MAX_PIPELINED))

    assert served == [200] * (1 + MAX_PIPELINED)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await connection.answer()


async def assert_it_is_let_go(state: ServerState, connection: Connection, *, dripping: bytes = b"") -> None:
    """Wait until the server has closed the connection, although the client goes on sending `dripping`."""

    async def is_closed() -> bool:
        connection.send(dripping)
        return not state.connections

    await until(is_closed)


@pytest.mark.parametrize(
    ("first", "dripping"),
    [(b"", b""), (b"", b"\r\n"), (b"G", b""), (GET, b"x")],
    ids=["nothing", "empty lines", "a byte", "a line"],
)
async def test_first_head_that_takes_too_long_ends_the_connection(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, first: bytes, dripping: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
    async with serving(app) as (connect, state):
        connection = await connect()

        connection.send(first)

        await assert_it_is_let_go(state, connection, dripping=dripping)


@pytest.mark.parametrize("pieces", [(GET + b"\r\n",), (WITH_BODY, b"0123456789")], ids=["no body", "body by itself"])
async def test_second_head_that_takes_too_long_ends_the_connection(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 1000)
    async with serving(seen) as (connect, state):
        connection = await connect()
        for piece in pieces:
            connection.send(piece)
            await until(seen.has_begun)
        assert (await connection.answer()).status == 200
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)

        connection.send(GET)

        await assert_it_is_let_go(state, connection, dripping=b"x")


async def test_answer_under_way_is_finished_before_a_slow_head_ends_the_connection(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen.may_answer.clear()
    async with serving(seen) as (connect, state):
        connection = await connect()
        connection.send(GET + b"\r\n")
        await until(seen.has_begun)
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
        connection.send(b"GET /sl")

        async def has_run_out() -> bool:
            ours = [one for one in state.connections if isinstance(one, LimitedHttpProtocol)]
            return not any(protocol.cycle.keep_alive for protocol in ours)

        await until(has_run_out)
        seen.may_answer.set()

        assert (await connection.answer()).headers["connection"] == "close"
        assert await connection.is_at_its_end()


async def test_refused_client_that_goes_on_sending_is_let_go(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.1)
    async with serving(app) as (connect, state):
        connection = await connect()
        connection.send(head_of(MAX_HEAD_BYTES + 1))
        await connection.answer()

        await assert_it_is_let_go(state, connection, dripping=b"more")


@pytest.mark.parametrize(("head", "dripping"), [(WITH_BODY, b""), (WITH_LARGE_BODY, b"b"), (CHUNKED, b"1\r\nb\r\n")])
async def test_body_that_takes_too_long_ends_the_connection_without_an_answer(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, head: bytes, dripping: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.1)
    async with serving(seen) as (connect, state):
        connection = await connect()

        connection.send(head)

        await assert_it_is_let_go(state, connection, dripping=dripping)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connection.answer()
        assert seen.requests == []


async def test_client_that_goes_on_with_a_body_after_the_answer_is_let_go(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.1)
    async with serving(app) as (connect, state):
        connection = await connect()
        connection.send(WITH_LARGE_BODY)
        assert (await connection.answer()).status == 404

        await assert_it_is_let_go(state, connection, dripping=b"b")


async def test_body_that_ends_after_the_answer_leaves_a_connection_for_the_next_request(connect: Connect) -> None:
    connection = await connect()
    connection.send(WITH_BODY)
    assert (await connection.answer()).status == 404

    connection.send(b"0123456789" + GET + b"\r\n")

    assert (await connection.answer()).status == 200


async def test_idle_connection_whose_body_ended_after_the_answer_is_let_go(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(app) as (connect, state):
        connection = await connect()
        connection.send(WITH_BODY)
        assert (await connection.answer()).status == 404
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)

        connection.send(b"0123456789")

        await assert_it_is_let_go(state, connection)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_request_for_another_protocol_is_answered_as_any_and_is_the_last_of_its_connection(
    connect_to_seen: Connect, seen: Seen, caplog: pytest.LogCaptureFixture, protocol: bytes
) -> None:
    connection = await connect_to_seen()
    upgrade = b"connection: upgrade\r\nupgrade: " + protocol + b"\r\ncontent-length: 100\r\n\r\n"

    connection.send(GET + upgrade)
    await until(seen.has_begun)
    connection.send(GET + b"\r\n")

    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await connection.is_at_its_end()
    assert len(seen.requests) == 1
    assert caplog.records == []
