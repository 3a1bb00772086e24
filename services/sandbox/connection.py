"""Access to the TCP connection under a request, for faults that HTTP cannot express."""

import asyncio
import socket
import struct

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION = "sandbox.transport"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST and not FIN.


class TransportAwareProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also gives the application the transport: ASGI cannot reset a connection."""

    def on_message_begin(self) -> None:
        """Add the transport to the scope of the request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


async def reset_connection(scope: Scope, receive: Receive, *, flush: bool = False) -> bool:
    """End the connection of a request, and return True; return False if there is none (an in-process transport).

    With `flush`, what was written is delivered before the connection closes; without `flush`, the peer sees a reset.
    """
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is None:
        return False
    transport: asyncio.Transport = extension["transport"]
    if flush:
        transport.close()
    else:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass  # uvicorn reports an error if we return before it has noticed the disconnect.
    return True
