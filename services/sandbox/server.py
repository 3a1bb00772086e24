"""The sandbox on a real socket."""

import uvicorn

from services.sandbox.app import create_app
from services.sandbox.connection import TransportAwareProtocol
from services.sandbox.state import Sandbox

DRAIN_SECONDS = 1


def create_server(sandbox: Sandbox, *, host: str = "127.0.0.1", port: int = 8001) -> uvicorn.Server:
    """A uvicorn server for a sandbox. Calls that a fault is holding are cut off a second after SIGTERM."""
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
