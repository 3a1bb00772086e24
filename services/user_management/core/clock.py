"""The clock as a dependency, so that tests can set the time on which decisions depend."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Gives the wall time, for stored times and tokens' claims, and a monotonic time, for durations."""

    def now(self) -> datetime:
        """Return the current time, in UTC and with its time zone."""

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment. This clock never goes back, so durations are measured by it."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class OffsetClock:
    """A clock whose wall time is wrong by `seconds`, like that of a machine that has lost its time server; its
    monotonic time is right."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._offset = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self._clock.now() + self._offset

    def monotonic(self) -> float:
        return self._clock.monotonic()


def milliseconds(moment: datetime | None) -> int:
    """Return `moment` as Unix time in milliseconds, for entity tags; 0 for None."""
    return 0 if moment is None else int(moment.timestamp() * 1000)
