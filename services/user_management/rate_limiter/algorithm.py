"""pyrate-limiter's token bucket, with the script that Redis runs replaced by one that answers everything at once."""

from typing import Final

from pyrate_limiter import Rate
from pyrate_limiter.abstracts.algorithm import TokenBucket

from services.user_management.rate_limiter.allowance import Verdict
from services.user_management.settings import QuotaPolicy

MILLISECOND = 1000

# KEYS[1] holds the microsecond at which the bucket is full again; no key, a full bucket. ARGV is pyrate-limiter's:
# its header (the client's time, which we leave aside for the server's: clients disagree; weight; a lifetime, which we
# compute; number of rates), then redis_args(): the microseconds that one request takes to come back, and the burst.
# Answers {index of the rate that refuses or -1, milliseconds to wait, microseconds until the bucket is full}.
_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local emission = tonumber(ARGV[5])
local capacity = emission * ARGV[6]
-- Never fuller of debt than a bucket can be: another server's clock, or a policy that was larger, may have written it.
local full_at = math.min(tonumber(redis.call('GET', KEYS[1]) or now), now + capacity)
local after = math.max(full_at, now) + emission * ARGV[2]
local wait = after - capacity - now
if wait > 0 then
    return {0, math.ceil(wait / 1000), full_at - now}
end
-- The key is gone by the time at which the bucket is full. %.0f: Lua's own way to write a number has 14 digits.
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {-1, 0, after - now}
"""


class SharedTokenBucket(TokenBucket):
    """One round trip gives verdict, wait and what is left, by the server's clock, and leaves nothing behind.

    For one rate; works in pyrate-limiter's own `RedisStateStore.check()` too.
    """

    def redis_script(self) -> str:
        return _SCRIPT

    def redis_args(self, rates: list[Rate]) -> list[int | float]:
        """Emission interval in microseconds, and burst. Raises ValueError for more than one rate."""
        if len(rates) != 1:
            raise ValueError("a bucket has one rate")
        return super().redis_args(rates)

    def verdict(self, reply: list[int]) -> Verdict:
        """Of the script's answer."""
        _, wait_milliseconds, until_full = reply
        return Verdict(wait_milliseconds * MILLISECOND, until_full)


ALGORITHM: Final = SharedTokenBucket()
"""Stateless, so one serves every bucket."""


def pyrate(policy: QuotaPolicy) -> Rate:
    """The policy as pyrate-limiter has it: as many at once as in a window."""
    return Rate(policy.limit, policy.window_seconds * 1000, burst=policy.limit)


def emission(policy: QuotaPolicy) -> int:
    """Microseconds that one request takes to come back, as pyrate-limiter rounds them."""
    return int(ALGORITHM.redis_args([pyrate(policy)])[0])
