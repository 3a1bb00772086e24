"""Middleware for the prefix `/api/v1`, under which the API is served as well as without it: mounting the routers twice
would cost time on every request.

Paths for operators and sibling services have only one spelling, so that no other spelling gets past a reverse proxy's
rule for them.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.user_management.exceptions import NotFoundError

PREFIX: Final = "/api/v1"
OPERATOR_PATHS: Final = frozenset({"/internal", "/health", "/ready", "/metrics", "/docs", "/openapi.json"})
"""Paths that, with everything below them, are served neither under the prefix nor with a percent sign in the path."""


class PrefixMiddleware:
    """Middleware that strips PREFIX from the path of a request, if it is there. Raises NotFoundError for OPERATOR_PATHS
    if they come under the prefix or with a percent sign, and for any path in which the prefix, or the first segment of
    the rest, is percent-encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _strip(scope)
        await self._app(scope, receive, send)


def _strip(scope: Scope) -> None:
    # `raw_path` is what was sent and what proxies compare; `path` is that without percent-encoding.
    path, raw_path = scope["path"], scope["raw_path"]
    is_prefixed = path.startswith(f"{PREFIX}/")
    if is_prefixed:
        # Only the prefix's plain spelling is cut; any other one fails the comparison below.
        path, raw_path = path[len(PREFIX) :], raw_path.removeprefix(PREFIX.encode())
    area = f"/{path[1:].partition('/')[0]}"
    is_operators = area in OPERATOR_PATHS
    if is_operators and (is_prefixed or b"%" in raw_path):
        raise NotFoundError
    # Ids may be percent-encoded, the first segment never has to be.
    if b"%" in raw_path and raw_path[1:].partition(b"/")[0] != area[1:].encode():
        raise NotFoundError
    scope["path"], scope["raw_path"] = path, raw_path
