"""Cross-origin resource sharing (Fetch Standard section 3.2) for the routes that browsers call."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

SIBLING_PATHS = "/internal/"
"""How the paths for sibling services begin. No page of any origin may read answers from there, so these never have CORS
headers."""


class BrowserCORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, except that it leaves requests for SIBLING_PATHS and their answers alone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(SIBLING_PATHS):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
