"""The Redis (or Valkey) client. Nothing here is needed for correctness, so it fails fast instead of retrying."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

__all__ = ["RedisClient", "RedisError", "create_redis_client", "ping"]

RedisClient = Redis
_TIMEOUT_SECONDS = 0.25


def create_redis_client(url: str, *, timeout_seconds: float | None = _TIMEOUT_SECONDS) -> RedisClient:
    """A lazy client: it connects with the first command. By default redis-py would spend 4.5 s on a dead server.

    `timeout_seconds` None: for whoever keeps a time limit of their own; redis-py makes a task for each of its own.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


async def ping(client: RedisClient) -> bool:
    """Whether it answers within a quarter of a second."""
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
