"""The entry point of every call to a party (Clerk or a provider). It records the call in the ledger, applies a scripted
fault if one matches, and returns the party's answer."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi.responses import Response

from services.sandbox.broken_responses import ResetResponse, error_answer, replacement, spoiled
from services.sandbox.faults import Fault, Faults
from services.sandbox.ledger import Entry, Ledger

Handler = Callable[[Entry], Response]
"""A function that carries out a call, adds to its ledger entry, and returns the party's answer. It is synchronous on
purpose: no other call can come in between, so rotation and reuse detection are atomic."""
ErrorStyle = Callable[[Fault], Response]
"""A function that writes the answer of a fault with the action `error`, in a party's own format."""


class Intake:
    """The entry point of calls. It records them in `ledger` and applies `faults`; handlers know nothing of faults."""

    def __init__(self, ledger: Ledger, faults: Faults) -> None:
        self.ledger = ledger
        self.faults = faults

    async def serve(
        self,
        party: str,
        operation: str,
        handler: Handler,
        *,
        latency_seconds: float = 0.0,
        error_style: ErrorStyle = error_answer,
        **known: Any,
    ) -> Response:
        """Answer one call, after the party's usual `latency_seconds`. `error_style` writes the answer of a fault with
        the action `error`; `known` are `Entry` fields that are known at the start."""
        fault = self.faults.take(party, operation)
        entry = self.ledger.start(party, operation, fault=fault.action if fault else None, **known)
        if latency_seconds:
            await asyncio.sleep(latency_seconds)
        answer = await self._answer(entry, handler, fault, error_style)
        self.ledger.finish(entry, status=None if isinstance(answer, ResetResponse) else answer.status_code)
        return answer

    async def _answer(self, entry: Entry, handler: Handler, fault: Fault | None, style: ErrorStyle) -> Response:
        if fault is None:
            return handler(entry)
        if fault.strikes_before_commit:
            await self.faults.pause(fault)
            answer = replacement(fault, style) or handler(entry)
        else:
            real_answer = handler(entry)
            self.ledger.update(entry)
            await self.faults.pause(fault)
            answer = spoiled(fault, real_answer, style)
        if fault.action == "error":
            entry.error = fault.error
        return answer
