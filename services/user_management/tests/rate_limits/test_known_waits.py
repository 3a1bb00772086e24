"""The rate-limit refusals that a process remembers: only those still in force, and of these a limited number, the
latest."""

import pytest

from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits, rate_limits
from services.user_management.redis_client import RedisClient
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.rate_limits.allowances import POLICIES, passed


@pytest.fixture
def limits(redis: RedisClient, clock: SetClock) -> RateLimits:
    return RateLimits(redis, POLICIES, clock)


async def be_refused(limits: RateLimits, key: str) -> None:
    """Count one request more than the three a minute that the anonymous class allows."""
    await passed(limits, RateClass.ANONYMOUS, key, 4)


async def test_refusal_that_is_over_is_forgotten_although_nobody_asks_for_its_key(
    limits: RateLimits, clock: SetClock, key: str
) -> None:
    await be_refused(limits, key)
    known_before = limits.knows_of_waits

    clock.seconds += 20

    assert known_before
    assert not limits.knows_of_waits
    assert limits.known_wait(RateClass.ANONYMOUS, key) == 0


async def test_refusals_are_bounded_and_the_one_that_is_oldest_goes(
    limits: RateLimits, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(rate_limits, "MAX_KEYS", 2)

    for number in (1, 2, 1, 3):
        await be_refused(limits, f"{key}-{number}")

    known = [bool(limits.known_wait(RateClass.ANONYMOUS, f"{key}-{number}")) for number in (1, 2, 3)]
    assert known == [True, False, True]
