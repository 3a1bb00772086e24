"""Bodies over 1 MiB are refused, by their announced length or while they arrive."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.user_management.exceptions import BadRequestError, BodyTooLargeError

MAX_BODY_BYTES: Final = 1 << 20


class BodyLimitMiddleware:
    """Raises BodyTooLargeError into the reading of the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length":
                _judge_length(value)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise BodyTooLargeError
            return message

        await self._app(scope, limited, send)


def _judge_length(value: bytes) -> None:
    if not value.isdigit():
        raise BadRequestError("Content-Length is not a number.")
    # One of many digits is not worth a conversion.
    if len(value) > 10 or int(value) > MAX_BODY_BYTES:
        raise BodyTooLargeError
