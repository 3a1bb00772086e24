"""`/api/v1/…` is the same API as `/…`: mounting the routers twice would cost time on every request."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX: Final = "/api/v1"


class PrefixMiddleware:
    """Strips the prefix."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/"):
            scope["path"] = scope["path"][len(PREFIX) :]
            # As it was sent, maybe percent-encoded; only its plain spelling can be cut.
            scope["raw_path"] = scope["raw_path"].removeprefix(PREFIX.encode())
        await self._app(scope, receive, send)
