"""Buckets in Redis: one EVALSHA per request."""

import asyncio
import hashlib
from typing import Final, cast

from redis.exceptions import NoScriptError

from services.user_management.rate_limiter.algorithm import ALGORITHM, pyrate
from services.user_management.rate_limiter.allowance import Verdict
from services.user_management.redis_client import RedisClient
from services.user_management.settings import QuotaPolicy

PATIENCE_SECONDS: Final = 0.25
_MAX_CONNECTIONS: Final = 8
"""More requests at once wait for their turn: the client refuses to open more than 100, and opening even 32 in a burst
took longer than PATIENCE_SECONDS on a busy machine, where eight are as fast (one process and one Redis have a core
each)."""

_SCRIPT: Final = ALGORITHM.redis_script().encode()
# Redis names scripts by SHA-1.
_SHA: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()


class SharedBuckets:
    """The buckets of all classes, for every process that has the same Redis."""

    def __init__(self, redis: RedisClient) -> None:
        """`redis` had better have no time limit of its own: there is one here, for all of the exchange."""
        self._redis = redis
        self._turns = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def spend(self, name: str, arguments: bytes) -> Verdict:
        """Take one from the bucket `name`, if there is one; `arguments` are `packed_arguments()` of its policy.

        Raises RedisError or OSError (of which TimeoutError is one), after a quarter of a second at most.
        """
        key = b"$1\r\n1\r\n" + _bulk(name.encode())
        async with asyncio.timeout(PATIENCE_SECONDS), self._turns:
            try:
                reply = await self._call(b"*10\r\n" + _EVALSHA + key + arguments)
            except NoScriptError:
                # A restart, a failover or SCRIPT FLUSH; EVAL leaves the script behind for the next one.
                reply = await self._call(b"*10\r\n" + _EVAL + key + arguments)
        return ALGORITHM.verdict(reply)

    async def _call(self, command: bytes) -> list[int]:
        # Around the client, whose encoding and bookkeeping cost more than the server's work on the answer: measured
        # 130 µs instead of 180 µs (a bare PING through the client: 110 µs).
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        try:
            await connection.send_packed_command([command], check_health=False)
            return cast("list[int]", await connection.read_response())
        finally:
            await pool.release(connection)


def packed_arguments(policy: QuotaPolicy) -> bytes:
    """The script's arguments, in the form in which Redis reads them."""
    now, weight, lifetime, rates = 0, 1, 0, [pyrate(policy)]
    arguments = [now, weight, lifetime, len(rates), *ALGORITHM.redis_args(rates)]
    return b"".join(_bulk(str(argument).encode()) for argument in arguments)


def _bulk(value: bytes) -> bytes:
    """A bulk string of the Redis protocol."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


_EVALSHA: Final = _bulk(b"EVALSHA") + _bulk(_SHA)
_EVAL: Final = _bulk(b"EVAL") + _bulk(_SCRIPT)
