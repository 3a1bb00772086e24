"""Named places at which a crash test may end the process. Outside the test environment they do nothing.

`FAILPOINT=<name>:<action>`; actions are `kill` (SIGKILL, as a power cut would look to the others) and `raise`.
"""

import os
import signal
from enum import StrEnum
from typing import Final


class Failpoint(StrEnum):
    """The places. A test fails when one of them is never exercised."""

    WEBHOOK_STORED = "webhook.stored"
    """The event is in the inbox, its effect is not there yet; nothing is committed."""
    WEBHOOK_APPLIED = "webhook.applied"
    """Event and effect are there, nothing is committed."""
    WEBHOOK_COMMITTED = "webhook.committed"
    """Both are committed, the sender does not know."""


class FailpointReached(RuntimeError):  # noqa: N818 - an event of a test, not an error of anybody
    """What the action `raise` raises."""


_armed: dict[str, str] = {}
_ACTIONS: Final = frozenset({"kill", "raise"})


def arm(specification: str | None) -> None:
    """Arm the one failpoint of `specification`, or none. Raises ValueError for an unknown name or action."""
    _armed.clear()
    if not specification:
        return
    name, _, action = specification.partition(":")
    if action not in _ACTIONS:
        raise ValueError(f"unknown failpoint action {action!r}")
    _armed[Failpoint(name).value] = action


def failpoint(point: Failpoint) -> None:
    """Do what is armed for `point`; nothing otherwise."""
    action = _armed.get(point)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise FailpointReached(point.value)
