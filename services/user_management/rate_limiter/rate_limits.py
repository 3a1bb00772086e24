"""Counts requests against the rate limits: in Redis, or in this process while Redis does not answer."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter

from services.user_management.core.clock import Clock
from services.user_management.enums import RateClass
from services.user_management.exceptions import RateLimitedError
from services.user_management.observability import RATE_LIMITED, RATE_LIMITER_DEGRADED
from services.user_management.rate_limiter.allowance import MICROSECONDS, Allowance, Quota, Verdict
from services.user_management.rate_limiter.keys import bucket_name
from services.user_management.rate_limiter.local_buckets import MAX_KEYS, LocalBuckets
from services.user_management.rate_limiter.shared_buckets import SharedBuckets
from services.user_management.redis_client import RedisClient, RedisError
from services.user_management.settings import QuotaPolicy

RETRY_SECONDS: Final = 1.0
"""For how many seconds Redis is not asked after a failure. Then a single request tries it again, so that no other has
to wait."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Class:
    """One rate class: its policy, the buckets of this process for it, and the metric that counts its refusals."""

    rate_class: RateClass
    policy: QuotaPolicy
    quota: Quota
    local: LocalBuckets
    refusals: Counter

    def allowance(self, verdict: Verdict) -> Allowance:
        """Return what is left after `verdict`. Raises RateLimitedError if the verdict is a refusal, and counts it in
        the metric."""
        if verdict.wait:
            raise self.refusal(verdict.wait)
        remaining = self.policy.limit - -(-verdict.until_full // self.quota.emission)
        return Allowance(self.rate_class, self.policy, remaining, _whole_seconds(verdict.until_full))

    def refusal(self, wait: int) -> RateLimitedError:
        """Build the error for a request that would pass in `wait` microseconds, and count the refusal in the metric."""
        self.refusals.inc()
        refused = Allowance(self.rate_class, self.policy, 0, _whole_seconds(wait))
        headers = {name.decode(): value.decode() for name, value in refused.headers().items()}
        return RateLimitedError(retry_after=refused.reset_seconds, headers=headers)


class RateLimits:
    """Counts requests by rate class and key: in Redis or, while Redis does not answer, in this process by the same
    policies."""

    def __init__(self, redis: RedisClient, policies: Mapping[RateClass, QuotaPolicy], clock: Clock) -> None:
        self._clock = clock
        self._shared = SharedBuckets(redis)
        self._classes: dict[RateClass, _Class] = {}
        for rate_class, policy in policies.items():
            quota = Quota.of(policy)
            local = LocalBuckets(quota, clock)
            self._classes[rate_class] = _Class(rate_class, policy, quota, local, RATE_LIMITED.labels(rate_class))
        self._empty_until: OrderedDict[str, int] = OrderedDict()
        """For buckets that have refused, the microsecond until which they refuse every request; the bucket that refused
        last stands last."""
        self._degraded = False
        self._ask_again_at = 0.0

    @property
    def degraded(self) -> bool:
        """Tell whether Redis does not answer, so that each process counts for itself."""
        return self._degraded

    async def spend(self, rate_class: RateClass, key: str) -> Allowance:
        """Count one request of `key`, and return what is left. Raises RateLimitedError if nothing was left;
        `known_wait` then knows of the refusal."""
        of_class, name = self._classes[rate_class], bucket_name(rate_class, key)
        verdict = await self._ask_redis(of_class, name) or of_class.local.spend(name)
        if verdict.wait:
            self._empty_until[name] = self._now() + verdict.wait
            self._empty_until.move_to_end(name)
            if len(self._empty_until) > MAX_KEYS:
                self._empty_until.popitem(last=False)
        return of_class.allowance(verdict)

    @property
    def knows_of_waits(self) -> bool:
        """Tell whether this process may know of a key that is refused; if not, every `known_wait` is 0. This also
        forgets refusals that are over."""
        now = self._now()
        while self._empty_until and next(iter(self._empty_until.values())) <= now:
            self._empty_until.popitem(last=False)
        return bool(self._empty_until)

    def known_wait(self, rate_class: RateClass, key: str) -> int:
        """Return for how many microseconds `key` will be refused, as far as `spend` of this process has seen a refusal;
        0 if it has not. This counts nothing and does not ask Redis."""
        return max(self._empty_until.get(bucket_name(rate_class, key), 0) - self._now(), 0)

    def refusal(self, rate_class: RateClass, wait: int) -> RateLimitedError:
        """Build the error for a request that has to wait for `wait` microseconds (see `known_wait`), and count the
        refusal in the metric."""
        return self._classes[rate_class].refusal(wait)

    def spend_here(self, rate_class: RateClass, key: str) -> Allowance:
        """Count one request of `key` in this process alone, in a few microseconds. Raises RateLimitedError when nothing
        was left."""
        of_class = self._classes[rate_class]
        return of_class.allowance(of_class.local.spend(bucket_name(rate_class, key)))

    async def _ask_redis(self, of_class: _Class, name: str) -> Verdict | None:
        """Count the request in Redis and return the verdict; None while Redis does not answer."""
        is_probe = self._degraded
        if is_probe:
            now = self._clock.monotonic()
            if now < self._ask_again_at:
                return None
            # Set before asking, so that other requests do not wait for what this one finds out.
            self._ask_again_at = now + RETRY_SECONDS
        try:
            verdict = await self._shared.spend(name, of_class.quota)
        except (RedisError, OSError) as error:
            self._degrade(error)
            return None
        if is_probe:
            # Only a request that was sent after the failure proves anything.
            self._recover()
        return verdict

    def _now(self) -> int:
        return int(self._clock.monotonic() * MICROSECONDS)

    def _degrade(self, error: Exception) -> None:
        self._ask_again_at = self._clock.monotonic() + RETRY_SECONDS
        if not self._degraded:
            self._degraded = True
            RATE_LIMITER_DEGRADED.set(1)
            log.warning("rate_limiter.degraded", reason=type(error).__name__)

    def _recover(self) -> None:
        self._degraded = False
        RATE_LIMITER_DEGRADED.set(0)
        log.info("rate_limiter.recovered")


def _whole_seconds(microseconds: int) -> int:
    """Return whole seconds, rounded up, so that a caller who waits that long has waited enough."""
    return -(-microseconds // MICROSECONDS)
