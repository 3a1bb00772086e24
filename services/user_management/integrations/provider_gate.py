"""Limits the number of simultaneous calls to each provider (cap), and stops calling a provider that fails again and
again (circuit breaker), so that one provider cannot hold up calls to the others.

Each process counts for itself. A provider that is down for everybody opens the breaker of every process within seconds,
and a shared breaker would be one more thing that can fail.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.provider_errors import BREAKER_OPEN, TOO_MANY_CALLS, ProviderCallError
from services.user_management.observability import PROVIDER_BREAKER_OPEN

WAIT_SECONDS: Final = 2.0
"""How long a call waits for its turn when as many calls as the cap allows are running."""
FAILURES: Final = 5
"""How many failures in a row, within WINDOW_SECONDS, open the breaker."""
WINDOW_SECONDS: Final = 30.0
FIRST_OPEN_SECONDS: Final = 15.0
MAX_OPEN_SECONDS: Final = 120.0
MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""The longest `Retry-After` that we obey: a provider's mistake must not stop our calls for days."""
TRIAL_RETRY_SECONDS: Final = 1.0
"""The `Retry-After` that other callers get while the trial call is under way."""

log = structlog.get_logger(__name__)


class BreakerPhase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """The next call is the trial that decides whether the breaker closes, or that trial is under way."""


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of one provider's breaker. `retry_after_seconds` is 0 if a call may be made now."""

    phase: BreakerPhase
    retry_after_seconds: float = 0.0


class Call:
    """One call that the gate has let through. Whoever makes the call reports with `answered` or `failed` how it
    ended; a report has no effect if the breaker has opened since."""

    def __init__(self, breaker: "_Breaker", *, is_trial: bool) -> None:
        self._breaker = breaker
        self._openings = breaker.openings
        self.is_trial = is_trial

    def answered(self) -> None:
        """Close the breaker, since the provider works: it answered 2xx, or with a refusal of its own."""
        if self._still_counts:
            self._breaker.close()

    def failed(self, retry_after: float | None = None) -> None:
        """Count a failure of the provider: a 5xx, a rate limit, a time-out or a failed connection. `retry_after` is the
        time, in seconds, for which the provider wants no calls; None if it names none."""
        if self._still_counts:
            self._breaker.note_failure(is_trial=self.is_trial, retry_after=retry_after)

    @property
    def _still_counts(self) -> bool:
        """Tell whether the result of this call still matters: False once the breaker has opened since the call was let
        through.

        A failure then adds nothing. A success may be older than the failures that opened the breaker: it proves nothing
        about the present, and must not undo a `Retry-After`.
        """
        return self._openings == self._breaker.openings


class _Breaker:
    def __init__(self, provider: str, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._failed_at: deque[float] = deque(maxlen=FAILURES)
        self.openings = 0
        """How often the breaker has opened in all."""
        self._openings_in_a_row = 0
        self._open_until: float | None = None
        self._trial_is_out = False

    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState(BreakerPhase.CLOSED)
        remaining = self._open_until - self._clock.monotonic()
        if remaining > 0:
            return BreakerState(BreakerPhase.OPEN, remaining)
        return BreakerState(BreakerPhase.HALF_OPEN, TRIAL_RETRY_SECONDS if self._trial_is_out else 0.0)

    def check(self) -> None:
        """Raise ProviderCallError if the breaker is open, or the trial call after an opening is still under way."""
        state = self.state()
        if state.retry_after_seconds > 0:
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, BREAKER_OPEN, retry_after=state.retry_after_seconds)

    def admit(self) -> Call:
        """Let a call through; the first one after the breaker was open is the trial. Raises ProviderCallError as
        `check` does."""
        self.check()
        is_trial = self._open_until is not None
        self._trial_is_out = self._trial_is_out or is_trial
        return Call(self, is_trial=is_trial)

    def release(self, call: Call) -> None:
        """Note that the call ended. If it was a trial and was reported neither as answered nor as failed, the next call
        becomes the trial."""
        if call.is_trial:
            self._trial_is_out = False

    def close(self) -> None:
        self._failed_at.clear()
        self._openings_in_a_row = 0
        if self._open_until is not None:
            self._open_until = None
            PROVIDER_BREAKER_OPEN.labels(self._provider).set(0)
            log.info("provider.breaker_closed", provider=self._provider)

    def note_failure(self, *, is_trial: bool, retry_after: float | None) -> None:
        if is_trial:
            self._open(retry_after)
            return
        now = self._clock.monotonic()
        self._failed_at.append(now)
        if len(self._failed_at) == FAILURES and now - self._failed_at[0] <= WINDOW_SECONDS:
            self._open(retry_after)

    def _open(self, retry_after: float | None) -> None:
        seconds = min(MAX_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0 ** min(self._openings_in_a_row, 8))
        seconds *= random.uniform(0.8, 1.2)  # noqa: S311 - spreads the trial calls of processes
        if retry_after is not None:
            seconds = max(seconds, min(MAX_RETRY_AFTER_SECONDS, retry_after))
        self.openings += 1
        self._openings_in_a_row += 1
        self._failed_at.clear()
        self._open_until = self._clock.monotonic() + seconds
        PROVIDER_BREAKER_OPEN.labels(self._provider).set(1)
        log.warning("provider.breaker_opened", provider=self._provider, seconds=round(seconds, 1))


@dataclass(slots=True)
class _Entrance:
    slots: asyncio.Semaphore
    breaker: _Breaker


class ProviderGate:
    """The gate that every call to a provider goes through: it applies the cap and the breaker of that provider."""

    def __init__(self, clock: Clock, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._entrances: dict[str, _Entrance] = {}

    @asynccontextmanager
    async def call(self, provider: str, *, max_concurrency: int) -> AsyncIterator[Call]:
        """Wait until fewer than `max_concurrency` calls to `provider` run, and count as one of them for the block. For
        later calls to the same provider the `max_concurrency` of the first one stays in force. Raises
        ProviderCallError, with nothing sent, if this call's turn does not come within the gate's `wait_seconds` or the
        breaker is open."""
        entrance = self._entrance(provider, max_concurrency)
        entrance.breaker.check()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await entrance.slots.acquire()
        except TimeoutError:
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, TOO_MANY_CALLS, retry_after=1.0) from None
        try:
            # `admit` checks once more: the breaker may have opened while we waited.
            call = entrance.breaker.admit()
            try:
                yield call
            finally:
                entrance.breaker.release(call)
        finally:
            entrance.slots.release()

    def state(self, provider: str) -> BreakerState:
        """Return the state of the provider's breaker, so that a caller can leave out a provider that is not called now.
        A provider that this process has not called yet has a closed breaker."""
        entrance = self._entrances.get(provider)
        return entrance.breaker.state() if entrance else BreakerState(BreakerPhase.CLOSED)

    @property
    def holds_anything_back(self) -> bool:
        """Tell whether there is a provider that this process does not call at the moment."""
        return any(entrance.breaker.state().retry_after_seconds > 0 for entrance in self._entrances.values())

    def _entrance(self, provider: str, max_concurrency: int) -> _Entrance:
        entrance = self._entrances.get(provider)
        if entrance is None:
            entrance = _Entrance(asyncio.Semaphore(max_concurrency), _Breaker(provider, self._clock))
            self._entrances[provider] = entrance
        return entrance
