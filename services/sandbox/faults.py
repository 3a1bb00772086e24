"""Scripted faults: what a party (Clerk or a provider) does wrong, on which call, and how often."""

import asyncio
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

FaultAction = Literal[
    "delay",
    "status",
    "error",
    "reset",
    "reset_mid_body",
    "html",
    "oversize",
    "truncated_json",
    "no_refresh_token",
    "expires_in_missing",
    "expires_in_negative",
    "expires_in_string",
    "expires_in_zero",
    "scope_narrowed",
    "no_id_token",
    "wrong_nonce",
    "wrong_audience",
    "wrong_issuer",
    "expired_id_token",
    "foreign_id_token",
    "bad_id_token_signature",
]

SPOILS_THE_REAL_ANSWER: frozenset[FaultAction] = frozenset(
    set(get_args(FaultAction)) - {"delay", "status", "error", "reset", "html", "oversize"}
)
"""Actions that alter the real answer, so the party always carries out the call first."""


class Fault(BaseModel):
    """One scripted fault, which applies to the next `times` calls that match.

    `party` and `operation` are shell patterns (`oidc:*`). Every action may also wait `delay_seconds`. `when` says
    whether the fault applies before the party carries out the call, or after it (the change is made, but the answer is
    lost or late); actions that alter the real answer always apply after it. Clearing the faults ends every wait that is
    under way, so a test can hold a call and release it.

    `status`: answers with `status` (default 500), `body` and `headers`. `error`: answers with an error in the party's
    own format, with code `error`, `description` and the additional `members`. `scope_narrowed`: the answer names
    `scope`, by default only the first of the granted scopes. `foreign_id_token`: the answer holds a correctly signed
    ID token about somebody else. `reset`: resets the connection without an answer; an in-process ASGI transport has no
    connection, so the request raises `httpx.ReadError` there.
    """

    model_config = ConfigDict(extra="forbid")

    party: str
    operation: str = "*"
    action: FaultAction
    times: int = Field(default=1, ge=1)
    delay_seconds: float = Field(default=0.0, ge=0, le=3600)
    when: Literal["before", "after"] = "before"
    status: int | None = Field(default=None, ge=200, le=599)
    body: str | dict[str, Any] | None = None
    error: str = "temporarily_unavailable"
    description: str = "scripted by the sandbox"
    members: dict[str, Any] = Field(default_factory=dict)
    scope: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)

    @property
    def strikes_before_commit(self) -> bool:
        """Tell whether the fault applies before the party carries out the call."""
        return self.when == "before" and self.action not in SPOILS_THE_REAL_ANSWER

    def matches(self, party: str, operation: str) -> bool:
        """Tell whether the fault is meant for this call."""
        return fnmatchcase(party, self.party) and fnmatchcase(operation, self.operation)


class Faults:
    """The faults that are not used up, in the order in which they were added."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._released = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Apply a copy of the fault to the next `times` calls that match it and no older fault."""
        self._pending.append(fault.model_copy())

    def take(self, party: str, operation: str) -> Fault | None:
        """Return the fault that applies to this call, the oldest that matches, and lower its `times` by one; `None` if
        none matches."""
        fault = next((one for one in self._pending if one.matches(party, operation)), None)
        if fault is None:
            return None
        fault.times -= 1
        if fault.times == 0:
            self._pending.remove(fault)
        return fault

    async def pause(self, fault: Fault) -> None:
        """Wait as long as the fault says, or until the faults are cleared."""
        if fault.delay_seconds == 0:
            return
        try:
            await asyncio.wait_for(self._released.wait(), fault.delay_seconds)
        except TimeoutError:
            return  # The whole delay has passed.

    def pending(self) -> list[Fault]:
        """Return the faults that are not used up; `times` is what is left of each."""
        return list(self._pending)

    def clear(self) -> None:
        """Drop every fault and release the calls that are being delayed."""
        self._pending.clear()
        self._released.set()
        self._released = asyncio.Event()
