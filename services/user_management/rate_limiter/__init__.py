"""Rate limits: token buckets (each holds the requests that a caller may still make) in Redis, shared by all processes,
or in this process while Redis does not answer."""

from services.user_management.rate_limiter.allowance import Allowance
from services.user_management.rate_limiter.keys import address_key
from services.user_management.rate_limiter.rate_limits import RateLimits

__all__ = ["Allowance", "RateLimits", "address_key"]
