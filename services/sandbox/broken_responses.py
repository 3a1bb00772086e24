"""The answers that scripted faults give: errors, connections that break, bodies that are truncated, oversized or of the
wrong kind, and real answers that a fault has edited."""

from collections.abc import Callable

import httpx
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from services.sandbox.connection import reset_connection
from services.sandbox.edited_answers import edited, edits_answer
from services.sandbox.faults import Fault

OVERSIZE_BYTES = 2 * 1024 * 1024
HTML_BODY = "<!doctype html><title>Scheduled maintenance</title><h1>We will be back soon</h1>"
STATUS_OF_ERROR = {"invalid_client": 401, "temporarily_unavailable": 503, "server_error": 500}


class ResetResponse(Response):
    """A response that sends nothing and resets the connection.

    An in-process transport has no connection to reset, so `httpx.ReadError` is raised there. httpx passes it on to the
    caller unchanged, and the caller sees the same as after a real reset.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Reset the connection instead of answering. Raises `httpx.ReadError` in process."""
        if not await reset_connection(scope, receive):
            raise httpx.ReadError("connection reset by the sandbox")


class MidBodyResetResponse(Response):
    """An answer that breaks off: the headers announce the whole body, and the connection closes after half of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half of the announced body, then close the connection. Raises `httpx.RemoteProtocolError` in process,
        where there is no connection to close."""
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": half, "more_body": True})
        if not await reset_connection(scope, receive, flush=True):
            raise httpx.RemoteProtocolError("connection closed by the sandbox in the middle of the body")


def _scripted_status(fault: Fault) -> Response:
    status = fault.status or 500
    headers = ({"Retry-After": "1"} if status in {429, 503} else {}) | fault.headers
    if isinstance(fault.body, dict):
        return JSONResponse(fault.body, status, headers)
    return PlainTextResponse(fault.body or "", status, headers)


def error_answer(fault: Fault) -> Response:
    """Return a scripted error in the format of RFC 6749 section 5.2; its status, if the fault names none, is the usual
    one for the code."""
    status = fault.status or STATUS_OF_ERROR.get(fault.error, 400)
    body = {"error": fault.error, "error_description": fault.description, **fault.members}
    return JSONResponse(body, status, fault.headers)


def _oversize(fault: Fault) -> Response:
    return JSONResponse({"access_token": "x" * OVERSIZE_BYTES, "token_type": "Bearer"}, headers=fault.headers)


_REPLACEMENTS: dict[str, Callable[[Fault], Response]] = {
    "status": _scripted_status,
    "reset": lambda _: ResetResponse(),
    "html": lambda fault: HTMLResponse(HTML_BODY, fault.status or 200, fault.headers),
    "oversize": _oversize,
}


def replacement(fault: Fault, error_style: Callable[[Fault], Response]) -> Response | None:
    """Return the answer that replaces the real one; `None` for a fault that only delays or alters the real one.
    `error_style` writes the answer of a fault with the action `error`."""
    if fault.action == "error":
        return error_style(fault)
    make = _REPLACEMENTS.get(fault.action)
    return make(fault) if make else None


def spoiled(fault: Fault, answer: Response, error_style: Callable[[Fault], Response]) -> Response:
    """Return what the client gets after the party (Clerk or a provider) has carried out the call: the real answer,
    unchanged or altered by the fault, or the answer that replaces it. A fault that edits members alters only answers
    with status 200."""
    if edits_answer(fault) and answer.status_code == 200:
        return edited(fault, answer)
    if fault.action == "truncated_json":
        return Response(bytes(answer.body)[: len(answer.body) // 2], answer.status_code, media_type="application/json")
    if fault.action == "reset_mid_body":
        return MidBodyResetResponse(answer.body, answer.status_code, media_type="application/json")
    return replacement(fault, error_style) or answer
