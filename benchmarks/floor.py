"""`python -m benchmarks.floor`: the least that a read of a token costs in this interpreter; the measure of the service.

A bare ASGI callable, in the environment of the service: it parses the body, runs the very statement with the very
parameters over an equal pool, decrypts, and answers the token. No routing, validation, middleware, log or refusals: a
read that is not granted crashes, which uvicorn answers with a 500.
"""

import asyncio
import json
import os
from typing import Any, Final

import asyncpg
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from services.user_management.core.ids import uuid7
from services.user_management.database import Database
from services.user_management.enums import TokenKind
from services.user_management.queries.token_read import STATEMENT
from services.user_management.security.encryption import TokenEncryption
from services.user_management.security.signing import sha256
from services.user_management.services.token_service.read import DEFAULT_TTL_SECONDS
from services.user_management.services.vault_service import token_binding
from services.user_management.settings import Settings, get_settings

SERVICE_KEY_VARIABLE: Final = "BENCHMARK_SERVICE_KEY"
_PROVIDER_KNOWN: Final = True
_REQUEST_ID: Final = "f" * 32
"""As long as the service's, so that the recorded rows are as long too."""


class Floor:
    """The ASGI application. The credential is parsed beforehand."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", settings: Settings, *, key_id: str, secret_hash: bytes
    ) -> None:
        keys = {version: key.get_secret_value() for version, key in settings.encryption.keys.items()}
        self._encryption = TokenEncryption.from_secrets(keys, settings.encryption.salt.get_secret_value().encode())
        self._issuer = settings.clerk.issuer
        self._pool = pool
        self._key_id = key_id
        self._secret_hash = secret_hash

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        raw = message["body"]
        while message.get("more_body"):
            message = await receive()
            raw += message["body"]
        payload = json.dumps({"access_token": await self._read(json.loads(raw))}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    async def _read(self, body: dict[str, Any]) -> str:
        async with self._pool.acquire() as connection:
            row: Any = await connection.fetchrow(
                STATEMENT,
                self._key_id,
                self._secret_hash,
                body["user_id"],
                self._issuer,
                body["provider"],
                _PROVIDER_KNOWN,
                body["scopes"],
                None,
                None,
                None,
                DEFAULT_TTL_SECONDS,
                uuid7(),
                _REQUEST_ID,
            )
        binding = token_binding(row["user_id"], row["integration_id"], TokenKind.ACCESS)
        return self._encryption.decrypt_token(row["ciphertext"], binding, row["key_version"])


async def serve(settings: Settings, key: str) -> None:
    """Run until SIGTERM, with the flags of the service."""
    _, key_id, secret = key.split("_")
    database = Database(settings.database)
    await database.connect()
    config = uvicorn.Config(
        Floor(database.door, settings, key_id=key_id, secret_hash=sha256(secret)),
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


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(get_settings(), os.environ[SERVICE_KEY_VARIABLE]))
