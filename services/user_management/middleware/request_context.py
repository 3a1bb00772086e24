"""The middleware that makes the context of each request, adds headers for request id and security to the answer,
writes the request's log line, and turns errors into answers."""

import re
import secrets
import time
from collections.abc import Sequence
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.user_management.core.context import RequestContext, current_context, use_context
from services.user_management.logging_config import log_request
from services.user_management.middleware.client_address import client_address
from services.user_management.middleware.problems import as_application_error, refusal_response
from services.user_management.settings import Network

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
_CONTENT_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_UNLOGGED: Final = frozenset({"/health", "/ready"})
"""Paths that are not logged, because probes ask for them so often that little else would be in the log."""
_HUNG_UP: Final = 499
"""The status in the log, the same as nginx's, for a client that closed the connection in the middle of its body; there
is nobody to answer."""
_RECORDED: Final = frozenset({"/internal/tokens/get", "/internal/oauth/token"})
"""Paths whose successful requests are not logged: each has a row in `token_reads` with its request id, and a log line
would cost more than the read."""


class RequestContextMiddleware:
    """Middleware that makes a RequestContext for each request, adds headers to the answer, and logs the request. An
    error is answered and not raised, unless the answer has begun already."""

    def __init__(self, app: ASGIApp, *, strict_transport: bool, trusted_networks: Sequence[Network] = ()) -> None:
        self._app = app
        self._trusted_networks = trusted_networks
        self._page_headers = (*_SECURITY_HEADERS, *((_STRICT_TRANSPORT,) if strict_transport else ()))
        self._headers = (*self._page_headers, _CONTENT_POLICY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0
        context = _context(scope, self._trusted_networks)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = (b"x-request-id", context.request_id.encode())
                message["headers"] = [*message["headers"], *self._missing(scope, message), request_id]
            await send(message)

        with use_context(context):
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientDisconnect:
                status = _HUNG_UP
            except Exception as error:
                problem = as_application_error(error)
                if status:
                    # The answer has begun; all that is left is to cut it off.
                    raise
                await refusal_response(scope, problem)(scope, receive, send_with_headers)
            self._log(scope, status, time.monotonic() - started)

    def _missing(self, scope: Scope, message: Message) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer has, and those that were added to the context, except those that
        `message` sets itself. The documentation page gets no content security policy, since it needs its scripts."""
        present = {name for name, _ in message["headers"]}  # in lower case, as ASGI demands
        wanted = self._page_headers if scope["path"] == "/docs" else self._headers
        added = current_context().response_headers.items()
        return [header for header in (*wanted, *added) if header[0] not in present]

    @staticmethod
    def _log(scope: Scope, status: int, seconds: float) -> None:
        if scope["path"] in _UNLOGGED or (status == 200 and scope["path"] in _RECORDED):
            return
        route = scope.get("route")
        actor = current_context().actor
        log_request(
            method=scope["method"],
            # The template, never the path: ids and whatever else a caller puts there stay out of the log.
            route=getattr(route, "path", "unmatched"),
            status=status,
            milliseconds=round(seconds * 1000, 1),
            actor=actor.id,
            **({"impersonator": actor.impersonator} if actor.impersonator else {}),
        )


def _context(scope: Scope, trusted_networks: Sequence[Network]) -> RequestContext:
    request_id = trace_id = None
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            trace_id = match[1].decode()
    return RequestContext(
        request_id=request_id or secrets.token_hex(16),
        trace_id=trace_id,
        ip_address=client_address(scope, trusted_networks),
    )
