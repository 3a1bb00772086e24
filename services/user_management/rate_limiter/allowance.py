"""Rate limits: the quota of a caller, the verdict on one request, what is left, and the headers that report it
(draft-ietf-httpapi-ratelimit-headers-11)."""

from dataclasses import dataclass
from typing import NamedTuple

from services.user_management.enums import RateClass
from services.user_management.settings import QuotaPolicy

MICROSECONDS = 1_000_000


class Quota(NamedTuple):
    """A bucket that holds `limit` requests, of which one comes back every `emission` microseconds (GCRA)."""

    limit: int
    emission: int

    @classmethod
    def of(cls, policy: QuotaPolicy) -> "Quota":
        """Build the quota of a policy: a whole window's requests may come at once."""
        return cls(policy.limit, policy.window_seconds * MICROSECONDS // policy.limit)


class Verdict(NamedTuple):
    """A bucket's answer to one request; times are in microseconds."""

    wait: int
    """Time until a request would pass; 0 if this one passed."""
    until_full: int
    """Time until the bucket is full again."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a caller after one request. `remaining` is in requests."""

    rate_class: RateClass
    policy: QuotaPolicy
    remaining: int
    reset_seconds: int
    """Seconds until the whole limit is available again; for a refused request, until the next one would pass, as in
    Retry-After."""

    def headers(self) -> dict[bytes, bytes]:
        """Return the headers RateLimit-Policy and RateLimit as ASGI wants them: bytes, names in lower case."""
        policy = f'"{self.rate_class}";q={self.policy.limit};w={self.policy.window_seconds}'
        left = f'"{self.rate_class}";r={self.remaining};t={self.reset_seconds}'
        return {b"ratelimit-policy": policy.encode(), b"ratelimit": left.encode()}
