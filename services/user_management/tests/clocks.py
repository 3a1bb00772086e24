"""A clock that stands still until a test sets it."""

from datetime import UTC, datetime
from typing import Final

NOW: Final = 1_800_000_000
"""Unix time of 15 January 2027, 08:00 UTC."""


class SetClock:
    """Wall clock and monotonic clock in one: `seconds` is Unix time to the former and an arbitrary count to the
    latter."""

    def __init__(self, seconds: float = NOW) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds
