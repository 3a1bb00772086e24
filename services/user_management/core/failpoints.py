"""Named places at which a crash test may end the process. Outside the test environment they do nothing.

`FAILPOINT=<name>:<action>[:<pass>]`; actions are `kill` (SIGKILL, as a power cut would look to the others) and `raise`,
taken at the pass of that number (default 1) and at no other, so that a process can do its work before it dies.
"""

import os
import re
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.user_management.exceptions import StartupError


class Failpoint(StrEnum):
    """The places. A test fails when one of them is never exercised."""

    WEBHOOK_STORED = "webhook.stored"
    """The event is in the inbox, its effect is not there yet; nothing is committed."""
    WEBHOOK_APPLIED = "webhook.applied"
    """Event and effect are there, nothing is committed."""
    WEBHOOK_COMMITTED = "webhook.committed"
    """Both are committed, the sender does not know."""


class Action(StrEnum):
    """What happens there."""

    KILL = "kill"
    RAISE = "raise"


class FailpointReached(RuntimeError):  # noqa: N818 - an event of a test, not an error of anybody
    """What the action `raise` raises."""


@dataclass(slots=True)
class _Armed:
    """The one failpoint of this process."""

    point: Failpoint
    action: Action
    passes_left: int
    """Until it fires, that one included."""


_SPECIFICATION: Final = re.compile(r"(?P<name>[^:]+):(?P<action>[^:]+)(?::(?P<number>[1-9][0-9]{0,5}))?")
_armed: _Armed | None = None
"""Process-wide: what it does, it does to the process."""


def arm(specification: str | None) -> None:
    """Arm the one failpoint of `specification`, or none. Raises StartupError for one that does not exist."""
    global _armed
    _armed = _parse(specification) if specification else None


def failpoint(point: Failpoint) -> None:
    """Do what is armed for this pass of `point`; nothing otherwise."""
    if _armed is None or _armed.point is not point:
        return
    _armed.passes_left -= 1
    if _armed.passes_left != 0:
        return
    if _armed.action is Action.RAISE:
        raise FailpointReached(point.value)
    os.kill(os.getpid(), signal.SIGKILL)


def _parse(specification: str) -> _Armed:
    match = _SPECIFICATION.fullmatch(specification)
    if match is None:
        raise StartupError(f"FAILPOINT: {specification!r} is not <name>:<action>[:<pass>]")
    name, action = match["name"], match["action"]
    if name not in set(Failpoint):
        raise StartupError(f"FAILPOINT: there is no {name!r}; there are {', '.join(Failpoint)}")
    if action not in set(Action):
        raise StartupError(f"FAILPOINT: there is no action {action!r}; there are {', '.join(Action)}")
    return _Armed(Failpoint(name), Action(action), int(match["number"] or 1))
