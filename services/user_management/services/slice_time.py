"""The time limit of a slice: a periodic job works for a few seconds at a stretch, so that its worker gets to other jobs
too and can stop."""

from collections.abc import Callable
from typing import Final

from services.user_management.core.clock import Clock

SLICE_SECONDS: Final = 5.0


class SliceTime:
    """Measures the time of one slice, which begins when this object is made."""

    def __init__(self, clock: Clock, is_stopping: Callable[[], bool]) -> None:
        """Begin the slice. `is_stopping` returns whether the process is about to end."""
        self._clock = clock
        self._is_stopping = is_stopping
        self._began = clock.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """The seconds since the slice began."""
        return self._clock.monotonic() - self._began

    def may_begin(self, *, within_seconds: float | None = None) -> bool:
        """Tell whether the job may begin more work: less than five seconds (or `within_seconds`) have passed since the
        slice began, and the process is not about to end."""
        within = SLICE_SECONDS if within_seconds is None else within_seconds
        return not self._is_stopping() and self.elapsed_seconds < within


StartSlice = Callable[[], SliceTime]
