"""The time that a job may work at a stretch, so that it keeps a worker neither from other jobs nor from stopping."""

from collections.abc import Callable
from typing import Final

from services.user_management.core.clock import Clock

SLICE_SECONDS: Final = 5.0


class SliceTime:
    """The clock of one slice, which starts when this object is made."""

    def __init__(self, clock: Clock, is_stopping: Callable[[], bool]) -> None:
        """`is_stopping`: whether the process has been told to end."""
        self._clock = clock
        self._is_stopping = is_stopping
        self._began = clock.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """The seconds since the slice began."""
        return self._clock.monotonic() - self._began

    def may_begin(self, *, within_seconds: float | None = None) -> bool:
        """Tell whether the job may begin more work: within five seconds of the slice's beginning, or `within_seconds`,
        and not once the process was told to end."""
        within = SLICE_SECONDS if within_seconds is None else within_seconds
        return not self._is_stopping() and self.elapsed_seconds < within


StartSlice = Callable[[], SliceTime]
