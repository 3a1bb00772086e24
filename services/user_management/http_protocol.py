"""uvicorn's HTTP/1.1 protocol with limits on the head of a request (request line and headers) in size, number and time,
and on the body in time.

uvicorn has none of its own: it collects URL and headers for as long as a client sends them, and waits for a body for
ever. Bytes are counted as they arrive, before the parser keeps any of them, so the limits hold before any guard or
middleware runs. The size of a body is limited by `BodyLimitMiddleware`.
"""

import asyncio
import secrets
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Any, Final

import structlog
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from services.user_management.core.context import RequestContext, use_context
from services.user_management.exceptions import ApplicationError, HeadTooLargeError, UriTooLongError
from services.user_management.middleware.problems import problem_response

MAX_HEAD_BYTES: Final = 64 * 1024
"""The most bytes of request line and headers together, and of the framing of a body at one stretch: chunk extensions
and trailers."""
MAX_URL_BYTES: Final = 8 * 1024
"""The longest URL; RFC 9110 section 4.1 asks for 8,000 at least."""
MAX_PARAMETERS: Final = 64
"""The most query parameters. FastAPI parses the query before any guard runs, and takes 6 ms for as many as fit into the
longest URL."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
"""The most requests of a connection that wait for the answer to an earlier one. 250 KB of small requests took 27 MB of
memory, and usual clients do not pipeline at all."""
HEAD_SECONDS: Final = 10.0
"""The time from a head's first byte to its last; for the first head of a connection, from the connecting."""
BODY_SECONDS: Final = 30.0
"""The time from the end of a head to the end of the body; the largest, of 1 MiB, needs 35 KB per second."""
LINGER_SECONDS: Final = 2.0
"""How long a connection stays open after the answer to a refused head, or to a request whose body has not ended (RFC
9112 section 9.6): closing a connection with unread bytes sends a reset, which may destroy the answer before the client
has read it."""

log = structlog.get_logger(__name__)


class LimitedHttpProtocol(HttpToolsProtocol):
    """The protocol of one connection. A head over a limit of size or number is answered 414 or 431, and nothing after
    it is read; while an earlier request is being answered, the connection is closed instead. If a head or
    body takes too long, the connection is closed without an answer to that request. After an answer that was sent
    before the end of the body, the client has two seconds to end the body."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self.headers = []
        self._unfinished = 0
        """How many bytes have come since the parser last finished a head, a piece of a body, or a message."""
        self._finished_something = False
        self._in_head = True
        self._refused = False
        """Whether nothing more is read."""
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._start_timer(HEAD_SECONDS, self.shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser pieces that are no larger than the rest of the limit, and check the limits after each."""
        view = memoryview(data)  # whose slices copy nothing
        start = 0
        while start < len(data) and not self._refused:
            part = view[start : start + MAX_HEAD_BYTES - self._unfinished]
            start += len(part)
            self._finished_something = False
            super().data_received(part)  # type: ignore[arg-type]  # goes to the parser, which takes any buffer
            if self.transport.is_closing() or self._refused:
                return
            self._judge(len(part))

    def _judge(self, size: int) -> None:
        self._unfinished = 0 if self._finished_something else self._unfinished + size
        if self._unfinished and (self._unfinished >= MAX_HEAD_BYTES or self._is_too_large()):
            self._refuse()
        elif self._timer is None:
            # A request that comes in one piece, as nearly all do, needs no timer.
            if not self._in_head:
                self._start_timer(BODY_SECONDS, self.transport.close)
            elif self._unfinished:
                self._start_timer(HEAD_SECONDS, self.shutdown)

    def _is_too_large(self) -> bool:
        return self._is_url_too_long() or len(self.headers) > MAX_HEADERS

    def _is_url_too_long(self) -> bool:
        return len(self.url) > MAX_URL_BYTES or self.url.count(b"&") >= MAX_PARAMETERS

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        if self._is_too_large() or len(self.pipeline) >= MAX_PIPELINED:
            self._refuse()
            return
        self._finished_something = True
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()
        # The request has its list; trailers go to another one. As headers, they would be credentials and addresses that
        # no proxy has seen (RFC 9110 section 6.5.1).
        self.headers = []

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._finished_something = True
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._finished_something = self._in_head = True
            self._stop_timer()
            super().on_message_complete()
            if self.cycle.response_complete:
                # uvicorn waits for another request only after an answer, and that was before the rest of this body.
                self._start_timer(HEAD_SECONDS, self.shutdown)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self._in_head:
            self._start_timer(LINGER_SECONDS, self.transport.close)

    def _unsupported_upgrade_warning(self) -> None:
        """Read nothing after a request to change the protocol, which is answered like any other (RFC 9110 section 7.8).
        The parser takes even its body for the other protocol, and would next read it as a request."""
        if not self._refused:
            self._refused = True
            self.cycle.keep_alive = False

    def _refuse(self) -> None:
        """Answer 414 or 431 and read no further. Inside a body, or while an earlier request is being answered (the two
        answers would mix), close the connection without an answer."""
        self._refused = True
        self._stop_timer()
        is_answering = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # uvicorn sets None
        if is_answering or not self._in_head:
            self.transport.close()
            return
        self.transport.write(_answer(UriTooLongError() if self._is_url_too_long() else HeadTooLargeError()))
        self.transport.write_eof()
        self._start_timer(LINGER_SECONDS, self.transport.close)

    def _start_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _answer(error: ApplicationError) -> bytes:
    """Return all bytes of the answer to a refused head, and log the refusal: no application sees the request."""
    request_id = secrets.token_hex(16)
    with use_context(RequestContext(request_id=request_id)):
        response = problem_response(error)
        log.info("request.head_refused", reason=error.code)
    headers = [
        *response.raw_headers,
        (b"connection", b"close"),
        # 414 may be kept by caches unless they are told (RFC 9110 section 15.1).
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body)
