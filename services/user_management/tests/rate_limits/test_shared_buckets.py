"""Rate-limit buckets in Redis: they count exactly over several processes, and expire when they are full again."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.conftest import Servers
from services.user_management.core.clock import SystemClock
from services.user_management.enums import RateClass
from services.user_management.exceptions import RateLimitedError
from services.user_management.rate_limiter import RateLimits, shared_buckets
from services.user_management.rate_limiter.allowance import Verdict
from services.user_management.rate_limiter.shared_buckets import SharedBuckets
from services.user_management.redis_client import RedisClient, create_redis_client
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.rate_limits.allowances import POLICIES, passed


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Redis 30 s to answer: on a busy machine, hundreds of requests at once take longer than the usual quarter of
    a second, and these tests are about which requests pass."""
    monkeypatch.setattr(shared_buckets, "PATIENCE_SECONDS", 30)


@pytest.fixture
def limits(redis: RedisClient) -> RateLimits:
    return RateLimits(redis, POLICIES, SystemClock())


@pytest.fixture
async def two_processes(servers: Servers) -> AsyncIterator[list[RateLimits]]:
    """Return rate limits like those of two processes, each with an open connection of its own to Redis."""
    clients = [create_redis_client(servers.valkey_url, timeout_seconds=None) for _ in range(2)]
    limits = [RateLimits(client, {RateClass.USER: QuotaPolicy(100, 86_400)}, SystemClock()) for client in clients]
    for each in limits:
        await each.spend(RateClass.USER, f"first-{secrets.token_hex(8)}")
    yield limits
    for client in clients:
        await client.aclose()


async def test_quota_over_two_processes_is_exact(two_processes: list[RateLimits], key: str) -> None:
    through = await asyncio.gather(*(passed(each, RateClass.USER, key, 75) for each in two_processes))

    assert not any(each.degraded for each in two_processes)
    assert sum(through) == 100


async def test_allowance_counts_down_from_the_whole_quota(limits: RateLimits, key: str) -> None:
    found = [await limits.spend(RateClass.SIGN_IN, key) for _ in range(5)]

    assert [allowance.remaining for allowance in found] == [4, 3, 2, 1, 0]
    assert [allowance.reset_seconds for allowance in found] == [12, 24, 36, 48, 60]


async def test_keys_and_classes_do_not_share(limits: RateLimits, key: str) -> None:
    for _ in range(3):
        await limits.spend(RateClass.ANONYMOUS, key)

    assert (await limits.spend(RateClass.ANONYMOUS, f"{key}-other")).remaining == 2
    assert (await limits.spend(RateClass.SIGN_IN, key)).remaining == 4


async def test_refusal_says_when_and_spends_nothing(limits: RateLimits, redis: RedisClient, key: str) -> None:
    await passed(limits, RateClass.SIGN_IN, key, 5)
    stored = await redis.get(f"{{rl}}:sign-in:{key}")

    with pytest.raises(RateLimitedError) as refused:
        await limits.spend(RateClass.SIGN_IN, key)

    assert refused.value.headers == {
        "Retry-After": "12",
        "ratelimit-policy": '"sign-in";q=5;w=60',
        "ratelimit": '"sign-in";r=0;t=12',
    }
    assert await redis.get(f"{{rl}}:sign-in:{key}") == stored


async def test_request_after_retry_after_passes_and_one_before_does_not(
    limits: RateLimits, redis: RedisClient, key: str
) -> None:
    name = f"{{rl}}:sign-in:{key}"
    await passed(limits, RateClass.SIGN_IN, key, 5)
    full_at = int(await redis.get(name) or 0)

    # The server's clock is nobody's to move; the bucket is.
    await redis.set(name, full_at - 11_000_000)
    with pytest.raises(RateLimitedError) as refused:
        await limits.spend(RateClass.SIGN_IN, key)
    await redis.set(name, full_at - 11_000_000 - refused.value.retry_after * 1_000_000)

    assert refused.value.retry_after == 1
    assert (await limits.spend(RateClass.SIGN_IN, key)).remaining == 0


async def test_bucket_expires_when_it_is_full_again(limits: RateLimits, redis: RedisClient, key: str) -> None:
    await limits.spend(RateClass.SIGN_IN, key)
    after_one = await redis.pttl(f"{{rl}}:sign-in:{key}")
    await passed(limits, RateClass.SIGN_IN, key, 10)
    after_all = await redis.pttl(f"{{rl}}:sign-in:{key}")

    assert 11_000 < after_one <= 12_000
    assert 59_000 < after_all <= 60_000


async def test_bucket_from_a_clock_ahead_of_ours_holds_up_nobody_for_longer_than_a_full_one(
    limits: RateLimits, redis: RedisClient, key: str
) -> None:
    await redis.set(f"{{rl}}:sign-in:{key}", int((time.time() + 86_400) * 1_000_000))

    with pytest.raises(RateLimitedError) as refused:
        await limits.spend(RateClass.SIGN_IN, key)

    assert refused.value.retry_after == 12


async def test_script_that_redis_has_lost_is_sent_again(limits: RateLimits, redis: RedisClient, key: str) -> None:
    await limits.spend(RateClass.SIGN_IN, key)
    await redis.script_flush()

    assert (await limits.spend(RateClass.SIGN_IN, key)).remaining == 3
    assert not limits.degraded


async def test_requests_that_wait_at_the_same_time_are_counted_by_one_call(
    limits: RateLimits, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = SharedBuckets._ask, []

    async def watched(self: SharedBuckets, questions: list[Any]) -> list[Verdict]:
        asked.append(len(questions))
        return await ask(self, questions)

    monkeypatch.setattr(SharedBuckets, "_ask", watched)

    assert await passed(limits, RateClass.WEBHOOK, key, 300) == 300

    assert asked == [128, 128, 44]
    assert not limits.degraded
    assert (await limits.spend(RateClass.WEBHOOK, key)).remaining >= 299


async def test_one_call_tells_several_keys_and_classes_apart(limits: RateLimits, key: str) -> None:
    wanted = [(RateClass.SIGN_IN, key), (RateClass.ANONYMOUS, key), (RateClass.SIGN_IN, f"{key}-other")] * 2

    found = await asyncio.gather(*(limits.spend(rate_class, name) for rate_class, name in wanted))

    assert [allowance.remaining for allowance in found] == [4, 2, 4, 3, 1, 3]


async def test_request_that_is_given_up_takes_nobody_with_it(limits: RateLimits, key: str) -> None:
    given_up = asyncio.create_task(limits.spend(RateClass.SIGN_IN, key))
    other = asyncio.create_task(limits.spend(RateClass.SIGN_IN, key))
    await asyncio.sleep(0)  # until both wait, and the call is about to be made for the first
    given_up.cancel()

    assert (await other).remaining == 3
    assert given_up.cancelled()
    assert not limits.degraded
