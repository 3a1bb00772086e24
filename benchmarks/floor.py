"""Serves a floor: a bare ASGI callable over a pool of Postgres connections as large as the service's, with the
service's uvicorn flags.

A floor does the least work that a request of its kind needs in this interpreter; the user management service is
measured against it.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import asyncpg
import uvicorn
import uvloop
from starlette.types import ASGIApp, Send

from services.user_management.database import Database
from services.user_management.settings import Settings, get_settings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Build = Callable[[Pool, Settings], ASGIApp]
_JSON: Final = (b"content-type", b"application/json")


async def answer(send: Send, document: Any) -> None:
    """Send status 200 with `document` as JSON."""
    payload = json.dumps(document).encode()
    headers = [_JSON, (b"content-length", str(len(payload)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


def run(build: Build) -> None:
    """Serve the application that `build` makes, until SIGTERM, with settings from the service's environment
    variables."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(build, get_settings()))


async def _serve(build: Build, settings: Settings) -> None:
    database = Database(settings.database)
    await database.connect()
    config = uvicorn.Config(
        build(database.door, settings),
        host=settings.host,
        port=settings.port,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    await uvicorn.Server(config).serve()
    await database.disconnect()
