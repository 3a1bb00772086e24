"""Fixtures for tests of the rate limits: the key of an unused bucket, a clock that a test can move, and a Redis
client."""

import secrets
from collections.abc import AsyncIterator

import pytest

from services.conftest import Servers
from services.user_management.redis_client import RedisClient, create_redis_client
from services.user_management.tests.clocks import SetClock


@pytest.fixture
def key() -> str:
    """Return the key of a bucket that nobody has used."""
    return f"user_{secrets.token_hex(8)}"


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[RedisClient]:
    client = create_redis_client(servers.valkey_url, timeout_seconds=None)
    yield client
    await client.aclose()
