"""Limits how much of a request's body is read: 64 KiB, or what the route allows once its guards (dependencies that may
refuse) have passed. A request that announces more than 1 MiB is refused at once."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.user_management.core.context import current_context
from services.user_management.exceptions import BadRequestError, BodyTooLargeError

MAX_BODY_BYTES: Final = 1 << 20
"""Limit for any route, in bytes. A request that announces a longer body is refused before its caller is
authenticated."""


class BodyLimitMiddleware:
    """Middleware that limits what is read of a body. Reading raises BodyTooLargeError if the announced length is over
    the limit in the request's context (`body_limit`), or as soon as more has arrived. A Content-Length over
    MAX_BODY_BYTES raises it at once, and one that is no number raises BadRequestError."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                announced = _judge_length(value)
        received = 0

        async def limited() -> Message:
            nonlocal received
            limit = current_context().body_limit
            if announced > limit:
                raise BodyTooLargeError(limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(limit)
            return message

        await self._app(scope, limited, send)


def _judge_length(value: bytes) -> int:
    if not value.isdigit():
        raise BadRequestError("Content-Length is not a number.")
    # A number of many digits is too large anyway, and converting it would cost time.
    if len(value) > 10 or int(value) > MAX_BODY_BYTES:
        raise BodyTooLargeError(MAX_BODY_BYTES)
    return int(value)
