"""Helpers of the tests of the rate limits: policies, a count of the requests that pass, and the value of a metric."""

import asyncio
from typing import Any

from services.user_management.enums import RateClass
from services.user_management.exceptions import RateLimitedError
from services.user_management.rate_limiter import Allowance, RateLimits
from services.user_management.settings import QuotaPolicy

POLICIES = {
    RateClass.USER: QuotaPolicy(100, 60),
    RateClass.ANONYMOUS: QuotaPolicy(3, 60),
    RateClass.SIGN_IN: QuotaPolicy(5, 60),
    RateClass.WEBHOOK: QuotaPolicy(600, 60),
    RateClass.INTERNAL: QuotaPolicy(1000, 1),
}


async def passed(limits: RateLimits, rate_class: RateClass, key: str, times: int) -> int:
    """Spend `times` requests of `key` at the same time; return how many of them pass."""
    found = await asyncio.gather(*(limits.spend(rate_class, key) for _ in range(times)), return_exceptions=True)
    for answer in found:
        assert isinstance(answer, Allowance | RateLimitedError), answer
    return sum(isinstance(answer, Allowance) for answer in found)


def value_of(metric: Any) -> float:
    """Return the value of a gauge or a counter."""
    (family,) = metric.collect()
    return float(next(sample.value for sample in family.samples if not sample.name.endswith("_created")))
