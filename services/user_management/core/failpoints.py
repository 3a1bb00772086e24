"""Named places at which a crash test may end the process or raise. Outside the test environment they do nothing.

`FAILPOINT=<name>:<action>[:<pass>]`. The action is `kill` (SIGKILL, which to other processes looks like a power cut) or
`raise`. It is taken when the place is passed for the `<pass>`-th time (default 1) and at no other time, so that a
process can do its work before it dies.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from services.user_management.exceptions import StartupError


class Failpoint(StrEnum):
    """The places at which a failpoint can be armed; a token refresh passes K0 to K8 in this order. A test fails when
    one of the places is never exercised."""

    WEBHOOK_STORED = "webhook.stored"
    """The received event is written to the inbox (the table of such events), its effect is not; nothing is
    committed."""
    WEBHOOK_APPLIED = "webhook.applied"
    """Event and effect are written, nothing is committed."""
    WEBHOOK_COMMITTED = "webhook.committed"
    """Event and effect are committed, the sender has not been answered."""
    BEFORE_LEASE = "refresh.before_lease"
    """K0: a refresh is wanted, nothing is written."""
    LEASED = "refresh.leased"
    """K1: the lease, this process's right to refresh, is committed; nothing is sent."""
    SENT = "refresh.sent"
    """K2: the request is sent; whether the provider has carried it out is unknown."""
    PROVIDER_COMMITTED = "refresh.provider_committed"
    """K3: a moment after the request is sent, for a provider that commits at once and answers late."""
    ANSWER_ARRIVED = "refresh.answer_arrived"
    """K4: the answer is in the kernel, and we have not read it."""
    ANSWER_PARSED = "refresh.answer_parsed"
    """K5: we hold the new tokens in memory only."""
    ENCRYPTED = "refresh.encrypted"
    """K6: the new tokens are written, nothing is committed."""
    STORED = "refresh.stored"
    """K7: the new tokens are committed."""
    BEFORE_ANSWER = "refresh.before_answer"
    """K8: the service that reads the token has not been answered yet."""
    ROTATION_SEALED = "rotation.sealed"
    """Of a rotation of the vault's keys: a batch is encrypted under the new key, nothing is written."""
    ROTATION_STORED = "rotation.stored"
    """Of a rotation: a batch is committed, the cursor that says where to go on is not."""


class Action(StrEnum):
    """What a failpoint does to the process."""

    KILL = "kill"
    RAISE = "raise"


class FailpointReached(RuntimeError):  # noqa: N818 - an event of a test, not an error of anybody
    """The exception that the action `raise` raises."""


@dataclass(slots=True)
class _Armed:
    """The failpoint that is armed in this process."""

    point: Failpoint
    action: Action
    passes_left: int
    """How many passes remain until the action is taken, including the pass that takes it."""


PAUSE_SECONDS: Final = 0.25
"""How many seconds after the sending of a request K3 and K4 act: enough for another party on this machine to commit and
to answer."""
Trace = Callable[[str, dict[str, Any]], Awaitable[None]]

_SPECIFICATION: Final = re.compile(r"(?P<name>[^:]+):(?P<action>[^:]+)(?::(?P<number>[1-9][0-9]{0,5}))?")
_armed: _Armed | None = None
"""The armed failpoint, if any. It is process-wide because its action ends the process."""
_watching: ContextVar[bool] = ContextVar("failpoints_watching", default=False)


def arm(specification: str | None) -> None:
    """Arm the failpoint that `specification` names; with None or an empty text, disarm. Raises StartupError for a
    specification that is malformed or names what does not exist."""
    global _armed
    _armed = _parse(specification) if specification else None


def failpoint(point: Failpoint) -> None:
    """Count one pass of `point`. If an action is armed for this pass, take it: kill the process, or raise
    FailpointReached."""
    if _armed is None or _armed.point is not point:
        return
    _armed.passes_left -= 1
    if _armed.passes_left != 0:
        return
    if _armed.action is Action.RAISE:
        raise FailpointReached(point.value)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def watched_call() -> Iterator[None]:
    """Let K2 to K4 act during the HTTP calls in the block; during all others they do nothing."""
    token = _watching.set(True)
    try:
        yield
    finally:
        _watching.reset(token)


def call_trace() -> Trace | None:
    """Return the callback that httpx is to call at each step of an HTTP call (its `trace` extension); None if no
    failpoint is armed, or outside a block of `watched_call`."""
    return _trace if _armed is not None and _watching.get() else None


async def _trace(event: str, _details: dict[str, Any]) -> None:
    if event.endswith("send_request_body.complete"):
        failpoint(Failpoint.SENT)
    elif event.endswith("receive_response_headers.started") and _armed is not None:
        if _armed.point is Failpoint.PROVIDER_COMMITTED:
            await asyncio.sleep(PAUSE_SECONDS)
            failpoint(Failpoint.PROVIDER_COMMITTED)
        elif _armed.point is Failpoint.ANSWER_ARRIVED:
            # Blocks on purpose: nothing may read the socket in the meantime.
            time.sleep(PAUSE_SECONDS)  # noqa: ASYNC251 - see above
            failpoint(Failpoint.ANSWER_ARRIVED)


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
