"""What a caller has left, and how they are told: draft-ietf-httpapi-ratelimit-headers-11."""

from dataclasses import dataclass
from typing import NamedTuple

from services.user_management.enums import RateClass

MICROSECONDS = 1_000_000


class Verdict(NamedTuple):
    """What a bucket says to one request, in microseconds."""

    wait: int
    """Until a request would pass; 0: this one passed."""
    until_full: int
    """Until everything that was spent is back."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a caller after one request."""

    rate_class: RateClass
    limit: int
    """Requests, at once or spread over the window."""
    window_seconds: int
    remaining: int
    reset_seconds: int
    """Until all of `limit` is there again; for a refused request until the next one passes, the same as Retry-After."""

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit-Policy and RateLimit, as ASGI wants them."""
        policy = f'"{self.rate_class}";q={self.limit};w={self.window_seconds}'
        left = f'"{self.rate_class}";r={self.remaining};t={self.reset_seconds}'
        return (b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())


def whole_seconds(microseconds: int) -> int:
    """Rounded up: whoever waits that long has waited enough."""
    return -(-microseconds // MICROSECONDS)
