"""Rate-limit buckets in this process, for requests that are counted per process and for the time while Redis does not
answer."""

from collections import OrderedDict
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.rate_limiter.allowance import MICROSECONDS, Quota, Verdict

MAX_KEYS: Final = 25_000
"""The most buckets per rate class. All classes at this limit cost less than 50 MB (`python -m benchmarks
rate_limit_memory`)."""


class LocalBuckets:
    """The buckets of one rate class, by name. Beyond `max_keys` the bucket that was used longest ago is forgotten, so
    that it is full again."""

    def __init__(self, quota: Quota, clock: Clock, *, max_keys: int = MAX_KEYS) -> None:
        self._quota = quota
        self._clock = clock
        self._max_keys = max_keys
        self._full_at: OrderedDict[str, int] = OrderedDict()
        """The microsecond, by the monotonic clock, at which each bucket is full again."""

    def __len__(self) -> int:
        return len(self._full_at)

    def spend(self, name: str) -> Verdict:
        """Take one request from the bucket `name`, if it has one, and return the verdict. This never awaits, so no
        other request can be counted in the middle of it."""
        buckets, emission = self._full_at, self._quota.emission
        now = int(self._clock.monotonic() * MICROSECONDS)
        full_at = max(buckets.pop(name, now), now)
        wait = full_at + emission - emission * self._quota.limit - now
        if wait <= 0:
            full_at += emission
        buckets[name] = full_at
        if len(buckets) > self._max_keys:
            buckets.popitem(last=False)
        return Verdict(max(wait, 0), full_at - now)
