"""Serves token reads with the least work that they need: `python -m benchmarks.token_read_floor`.

A bare ASGI callable, in the environment of the service and with a service key in BENCHMARK_SERVICE_KEY. It parses the
body, runs the service's own statement with that key (not the request's own) and otherwise the same parameters over a
pool of the same size, decrypts, and answers with the token. It has no routing, validation, middleware, log or refusals:
a read that is not granted raises an exception, which uvicorn answers with a 500.
"""

import json
import os
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from benchmarks import floor
from services.user_management.core.ids import uuid7
from services.user_management.enums import TokenKind
from services.user_management.queries.token_read import STATEMENT
from services.user_management.security.encryption import TokenEncryption
from services.user_management.security.signing import sha256
from services.user_management.services.token_service.answers import DEFAULT_TTL_SECONDS
from services.user_management.services.vault_service import token_binding
from services.user_management.settings import Settings

SERVICE_KEY_VARIABLE: Final = "BENCHMARK_SERVICE_KEY"
_PROVIDER_KNOWN: Final = True
_REPLACES: Final = False
_REQUEST_ID: Final = "f" * 32
"""A request id as long as those of the service, so that the recorded rows are as long too."""


class TokenReadFloor:
    """The ASGI application of the floor; it parses the service key once, when it is made."""

    def __init__(self, pool: floor.Pool, settings: Settings) -> None:
        salt = settings.encryption.salt.get_secret_value().encode()
        _, key_id, secret = os.environ[SERVICE_KEY_VARIABLE].split("_")
        self._encryption = TokenEncryption.from_secrets(settings.encryption.secrets(), salt)
        self._issuer = settings.clerk.issuer
        self._pool = pool
        self._key_id = key_id
        self._secret_hash = sha256(secret)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        raw = message["body"]
        while message.get("more_body"):
            message = await receive()
            raw += message["body"]
        await floor.answer(send, {"access_token": await self._read(json.loads(raw))})

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
                json.dumps(body["scopes"]),
                None,
                None,
                None,
                DEFAULT_TTL_SECONDS,
                uuid7(),
                _REQUEST_ID,
                _REPLACES,
            )
        binding = token_binding(row["user_id"], row["integration_id"], TokenKind.ACCESS)
        return self._encryption.decrypt_token(row["ciphertext"], binding, row["key_version"])


if __name__ == "__main__":
    floor.run(TokenReadFloor)
