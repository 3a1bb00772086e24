"""A stand-in for the user management service: a little HTTP server on loopback that gives the answers that a test
lists, in order, and repeats the last one."""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from services.auth_client.wire import Answer

KEY: Final = "ums_0123456789ab_" + "c0ffee" * 10
TOKEN_TEXT: Final = "ya29.example-access-token"


def token_document(**changes: Any) -> dict[str, Any]:
    """Return the body of a token answer as the service gives it, with `changes`."""
    return {
        "access_token": TOKEN_TEXT,
        "token_type": "Bearer",
        "expires_at": "2030-01-01T00:00:00Z",
        "expires_in": 3600,
        "scopes": ["calendar.read", "email"],
        "provider": "google",
        "account": "1234",
        "integration_id": "0190b0a4-0000-7000-8000-000000000001",
        "refreshed": False,
    } | changes


def problem_document(code: str, status: int, **members: Any) -> dict[str, Any]:
    """Return the body of a refusal as the service gives it, with further `members`."""
    return {"type": code, "title": "T", "status": status, "detail": f"about {code}", "request_id": "req-1"} | members


@dataclass(frozen=True)
class Reply:
    """One answer. A `body` that is text is sent as it is, any other as JSON. With `held`, the stand-in waits until
    `released` is set, for at most ten seconds; with `reset`, it resets the connection instead of answering."""

    status: int = 200
    body: Any = field(default_factory=token_document)
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    held: bool = False

    @classmethod
    def problem(cls, code: str, status: int, *, headers: Mapping[str, str] | None = None, **members: Any) -> "Reply":
        return cls(status, problem_document(code, status, **members), headers or {})

    def as_answer(self) -> Answer:
        """Return the reply, whose body must not be text, in the form in which the client's code handles answers."""
        return Answer(self.status, json.dumps(self.body).encode(), self.headers.get("Retry-After"))


RESET: Final = Reply(reset=True)


@dataclass(frozen=True)
class Received:
    """One request that the stand-in received."""

    path: str
    body: Any
    headers: Mapping[str, str]


class ServiceStandIn:
    """The stand-in, bound to a free port at once; it refuses connections until `listen`."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [Reply()]
        self.received: list[Received] = []
        self.arrived = threading.Semaphore(0)
        """Released once for each request."""
        self.released = threading.Event()
        """Set by a test to let `held` answers go; set by `stop` at the latest."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self), bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def listen(self) -> None:
        if not self._thread.is_alive():
            self._server.server_activate()
            self._thread.start()

    def stop(self) -> None:
        self.released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def take(self, request: Received) -> Reply:
        with self._lock:
            self.received.append(request)
            self.arrived.release()
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def _handler_for(owner: ServiceStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10.0

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = owner.take(Received(self.path, body, dict(self.headers)))
            if reply.held:
                owner.released.wait(10)
            if reply.reset:
                self._reset()
                return
            content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # a client whose time ran out has hung up
                self.end_headers()
                self.wfile.write(content)

        def _reset(self) -> None:
            """Reset the connection (RST), as if the process had been killed."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """Write nothing, where the base class logs to stderr."""

    return Handler
