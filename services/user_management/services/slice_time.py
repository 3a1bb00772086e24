"""How long a job works at a stretch: no worker is kept from the other jobs, and none goes on as it ends."""

from collections.abc import Callable
from typing import Final

from services.user_management.core.clock import Clock

SLICE_SECONDS: Final = 5.0


class SliceTime:
    """The time of one slice; it begins when this is made."""

    def __init__(self, clock: Clock, is_stopping: Callable[[], bool]) -> None:
        """`is_stopping`: whether the process has been told to end."""
        self._clock = clock
        self._is_stopping = is_stopping
        self._began = clock.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """Since the beginning."""
        return self._clock.monotonic() - self._began

    def may_begin(self, *, within_seconds: float | None = None) -> bool:
        """Whether the job may take up something more: in the slice's time, or `within_seconds` of its beginning."""
        within = SLICE_SECONDS if within_seconds is None else within_seconds
        return not self._is_stopping() and self.elapsed_seconds < within


StartSlice = Callable[[], SliceTime]
