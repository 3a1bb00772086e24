"""Rate-limit buckets in the memory of a process: quota, refusals, refill, and the limited number of buckets."""

import pytest

from services.user_management.enums import RateClass
from services.user_management.exceptions import RateLimitedError
from services.user_management.observability import RATE_LIMITED
from services.user_management.rate_limiter import RateLimits
from services.user_management.rate_limiter.allowance import Quota
from services.user_management.rate_limiter.local_buckets import LocalBuckets
from services.user_management.redis_client import RedisClient
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.rate_limits.allowances import POLICIES, value_of


@pytest.fixture
def limits(redis: RedisClient, clock: SetClock) -> RateLimits:
    return RateLimits(redis, POLICIES, clock)


def test_internal_class_passes_its_quota_and_no_more(limits: RateLimits, key: str) -> None:
    found = [limits.spend_here(RateClass.INTERNAL, key).remaining for _ in range(1000)]

    assert found == list(reversed(range(1000)))
    with pytest.raises(RateLimitedError) as refused:
        limits.spend_here(RateClass.INTERNAL, key)
    assert refused.value.retry_after == 1


def test_request_after_retry_after_passes_and_one_before_does_not(
    limits: RateLimits, clock: SetClock, key: str
) -> None:
    for _ in range(3):
        limits.spend_here(RateClass.ANONYMOUS, key)
    with pytest.raises(RateLimitedError) as refused:
        limits.spend_here(RateClass.ANONYMOUS, key)

    clock.seconds += refused.value.retry_after - 0.5
    with pytest.raises(RateLimitedError) as again:
        limits.spend_here(RateClass.ANONYMOUS, key)
    clock.seconds += 0.5

    assert (refused.value.retry_after, again.value.retry_after) == (20, 1)
    assert limits.spend_here(RateClass.ANONYMOUS, key).remaining == 0


def test_allowance_refills_evenly(limits: RateLimits, clock: SetClock, key: str) -> None:
    for _ in range(100):
        limits.spend_here(RateClass.USER, key)

    clock.seconds += 30

    assert limits.spend_here(RateClass.USER, key).remaining == 49


def test_keys_are_bounded_and_the_one_used_longest_ago_goes(clock: SetClock) -> None:
    buckets = LocalBuckets(Quota.of(QuotaPolicy(5, 60)), clock, max_keys=3)
    for name in ("a", "b", "c", "a", "d"):
        buckets.spend(name)

    assert len(buckets) == 3
    assert buckets.spend("a").until_full == 36_000_000
    assert buckets.spend("b").until_full == 12_000_000


def test_refusals_are_counted_by_class(limits: RateLimits, key: str) -> None:
    counter = RATE_LIMITED.labels("anonymous")
    before = value_of(counter)
    for _ in range(3):
        limits.spend_here(RateClass.ANONYMOUS, key)
    assert value_of(counter) == before

    with pytest.raises(RateLimitedError):
        limits.spend_here(RateClass.ANONYMOUS, key)

    assert value_of(counter) == before + 1
