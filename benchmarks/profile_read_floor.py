"""Serves a user's own profile with the least work that it needs: `python -m benchmarks.profile_read_floor`.

A bare ASGI callable, in the environment of the service: it verifies the session token with PyJWT, selects the profile
of its subject with a prepared statement over a pool of the same size, and answers with the row. It has no routing,
validation, middleware, rate limit, user status, log or refusals: an invalid request raises an exception, which uvicorn
answers with a 500.
"""

from datetime import datetime
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.types import Receive, Scope, Send

from benchmarks import floor
from services.user_management.queries.user import PROFILE
from services.user_management.settings import Settings

_REQUIRED: Final = ["exp", "iat", "nbf", "iss", "sub", "sid"]
_AUTHORIZATION: Final = b"authorization"


class ProfileReadFloor:
    """The ASGI application of the floor."""

    def __init__(self, pool: floor.Pool, settings: Settings) -> None:
        key = load_pem_public_key((settings.clerk.jwt_key or "").encode())
        if not isinstance(key, RSAPublicKey):
            raise TypeError("CLERK_JWT_KEY is not an RSA key")
        self._key = key
        self._issuer = settings.clerk.issuer
        self._pool = pool

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        authorization = next(value for name, value in scope["headers"] if name == _AUTHORIZATION)
        claims = jwt.decode(
            authorization.partition(b" ")[2],
            self._key,
            algorithms=["RS256"],
            issuer=self._issuer,
            options={"require": _REQUIRED},
        )
        async with self._pool.acquire() as connection:
            row: Any = await connection.fetchrow(PROFILE, claims["sub"])
        await floor.answer(send, {name: _json(value) for name, value in row.items()})


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


if __name__ == "__main__":
    floor.run(ProfileReadFloor)
