"""Buckets in this process: for what is counted per process, and for the time that Redis is away."""

from collections import OrderedDict
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.rate_limiter.algorithm import ALGORITHM, MILLISECOND, pyrate
from services.user_management.rate_limiter.allowance import Verdict
from services.user_management.settings import QuotaPolicy

MAX_KEYS: Final = 25_000
"""Per class. All classes full cost less than 50 MB (`python -m benchmarks rate_limit_memory`)."""


class LocalBuckets:
    """The buckets of one class; beyond `max_keys` the one that was used longest ago is forgotten, that is: full."""

    def __init__(self, policy: QuotaPolicy, clock: Clock, *, max_keys: int = MAX_KEYS) -> None:
        self._rates = [pyrate(policy)]
        self._clock = clock
        self._max_keys = max_keys
        self._full_at: OrderedDict[str, int] = OrderedDict()
        """Microsecond at which each is full again; the one number of pyrate-limiter's state, without its tuple."""

    def __len__(self) -> int:
        return len(self._full_at)

    def spend(self, name: str) -> Verdict:
        """Take one from the bucket, if there is one. Never suspends, so no other request comes between."""
        buckets = self._full_at
        now = int(self._clock.monotonic() * 1000)
        (full_at,), decision = ALGORITHM.step(self._rates, (buckets.pop(name, 0),), now, 1)
        buckets[name] = int(full_at)
        if len(buckets) > self._max_keys:
            buckets.popitem(last=False)
        return Verdict((decision.retry_after_ms or 0) * MILLISECOND, int(full_at) - now * MILLISECOND)
