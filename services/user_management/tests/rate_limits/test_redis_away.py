"""Rate limits while Redis is dead or silent, and when it is back: requests are never unlimited, slow or failed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import structlog

from services.devstack.folders import scratch_folder
from services.devstack.valkey import ValkeyServer
from services.user_management.database import Database
from services.user_management.enums import RateClass
from services.user_management.exceptions import RateLimitedError
from services.user_management.observability import RATE_LIMITER_DEGRADED
from services.user_management.rate_limiter import RateLimits
from services.user_management.rate_limiter.allowance import Quota, Verdict
from services.user_management.rate_limiter.rate_limits import RETRY_SECONDS
from services.user_management.rate_limiter.shared_buckets import PATIENCE_SECONDS, SharedBuckets
from services.user_management.redis_client import RedisError, create_redis_client
from services.user_management.services.health_service import HealthService
from services.user_management.settings import DatabaseGroup
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.rate_limits.allowances import POLICIES, passed, value_of

pytestmark = pytest.mark.serial


@contextmanager
def stopped(server: ValkeyServer) -> Iterator[None]:
    """Within the block, let `server` accept connections and never answer."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """Run a server of the test's own, which it may stop or kill."""
    with scratch_folder() as folder, ValkeyServer(folder / "valkey", settings={"appendonly": "no"}) as server:
        yield server


@pytest.fixture
async def limits(own_valkey: ValkeyServer, clock: SetClock) -> AsyncIterator[RateLimits]:
    client = create_redis_client(own_valkey.url())
    yield RateLimits(client, POLICIES, clock)
    await client.aclose()
    RATE_LIMITER_DEGRADED.set(0)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records each question to Redis, in order: "asked", and later "given up" if it fails."""
    happened: list[str] = []
    spend = SharedBuckets.spend

    async def watched(self: SharedBuckets, name: str, quota: Quota) -> Verdict:
        happened.append("asked")
        try:
            return await spend(self, name, quota)
        except (RedisError, OSError):
            happened.append("given up")
            raise

    monkeypatch.setattr(SharedBuckets, "spend", watched)
    return happened


async def test_dead_redis_leaves_the_same_policy_in_this_process(
    limits: RateLimits, own_valkey: ValkeyServer, key: str
) -> None:
    await limits.spend(RateClass.SIGN_IN, key)
    own_valkey.child.kill()
    own_valkey.child.wait(5)

    assert await passed(limits, RateClass.SIGN_IN, key, 20) == 5
    assert limits.degraded
    with pytest.raises(RateLimitedError) as refused:
        await limits.spend(RateClass.SIGN_IN, key)
    assert refused.value.retry_after == 12


async def test_redis_that_is_back_counts_again(
    limits: RateLimits, own_valkey: ValkeyServer, clock: SetClock, key: str
) -> None:
    own_valkey.child.kill()
    own_valkey.child.wait(5)
    with structlog.testing.capture_logs() as events:
        await passed(limits, RateClass.SIGN_IN, key, 5)
        gauge_while_away = value_of(RATE_LIMITER_DEGRADED)
        own_valkey.start()

        clock.seconds += RETRY_SECONDS - 0.01
        await limits.spend(RateClass.ANONYMOUS, key)
        degraded_before = limits.degraded
        clock.seconds += 0.01
        allowance = await limits.spend(RateClass.SIGN_IN, key)

    assert degraded_before
    assert not limits.degraded
    assert allowance.remaining == 4
    assert (gauge_while_away, value_of(RATE_LIMITER_DEGRADED)) == (1, 0)
    assert [event["event"] for event in events] == ["rate_limiter.degraded", "rate_limiter.recovered"]


async def test_silent_redis_costs_one_request_a_quarter_of_a_second(
    limits: RateLimits, own_valkey: ValkeyServer, clock: SetClock, key: str, questions: list[str]
) -> None:
    with stopped(own_valkey):
        await limits.spend(RateClass.USER, key)
        of_the_first = [*questions]
        await passed(limits, RateClass.USER, key, 50)
        of_the_others = questions[2:]
        clock.seconds += RETRY_SECONDS
        probe = asyncio.create_task(limits.spend(RateClass.USER, key))
        await asyncio.sleep(0)  # until it has sent its question
        await passed(limits, RateClass.USER, key, 40)
        beside_the_probe = questions[2:]
        await probe

    assert PATIENCE_SECONDS == 0.25
    assert of_the_first == ["asked", "given up"]
    assert of_the_others == []
    assert beside_the_probe == ["asked"]
    assert limits.degraded


async def test_crowd_before_a_silent_redis_waits_no_longer_than_one(
    limits: RateLimits, own_valkey: ValkeyServer, key: str, questions: list[str]
) -> None:
    with stopped(own_valkey):
        await passed(limits, RateClass.WEBHOOK, key, 300)

    # All wait at the same time: nobody begins after somebody else has given up.
    assert questions == ["asked"] * 300 + ["given up"] * 300
    assert limits.degraded


async def test_silent_redis_that_answers_again_counts_again(
    limits: RateLimits, own_valkey: ValkeyServer, clock: SetClock, key: str
) -> None:
    await limits.spend(RateClass.SIGN_IN, f"{key}-before")
    with stopped(own_valkey):
        await asyncio.gather(*(limits.spend(RateClass.SIGN_IN, f"{key}-{number}") for number in range(50)))
    clock.seconds += RETRY_SECONDS

    # Answers to the questions that nobody waited for must not be taken for those to the next ones.
    found = [await limits.spend(RateClass.SIGN_IN, key) for _ in range(5)]

    assert not limits.degraded
    assert [allowance.remaining for allowance in found] == [4, 3, 2, 1, 0]


async def test_health_says_who_counts(limits: RateLimits, own_valkey: ValkeyServer, key: str) -> None:
    database, client = Database(DatabaseGroup()), create_redis_client(own_valkey.url())
    health = HealthService(database, client, phase=lambda: "serving", is_rate_limiter_degraded=lambda: limits.degraded)
    before = health.health().rate_limiter
    own_valkey.child.kill()
    own_valkey.child.wait(5)

    await limits.spend(RateClass.USER, key)

    assert (before, health.health().rate_limiter) == ("shared", "in_process")
