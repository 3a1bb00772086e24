"""A server that puts the sandbox on a real socket."""

import uvicorn

from services.sandbox.app import create_app
from services.sandbox.connection import TransportAwareProtocol
from services.sandbox.state import Sandbox

DRAIN_SECONDS = 1


def create_server(sandbox: Sandbox, *, host: str = "127.0.0.1", port: int = 8001) -> uvicorn.Server:
    """Return a uvicorn server for a sandbox. A second after SIGTERM the server cuts off the calls that are still under
    way, such as those that a fault delays."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(sandbox),
            host=host,
            port=port,
            loop="asyncio",  # uvloop's sockets refuse SO_LINGER, which a reset needs.
            http=TransportAwareProtocol,
            ws="none",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
