"""Tests promise R7 of the chaos run: when a provider answers a refresh badly, late or not at all, the service loses no
integration, answers its caller with a good token or 503, and does not call the provider again and again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.chaos.aftermath import gather_evidence, renewed
from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import GRACE_SECONDS, Fleet
from benchmarks.chaos.ledger import Answer
from benchmarks.report import Promise
from services.devstack.replicas import parallel_replicas
from services.sandbox.providers import KINDS, Kind

CALLS_PER_FAILURE: Final = 3
BREAKER_FAILURES: Final = 5
BREAKER_ASKED: Final = 12
LONG_GRACE_SECONDS: Final = 900.0
"""How long, during this scenario, the `grace` provider accepts a refresh token that it has replaced; longer than the
scenario takes. After an answer without the new refresh token, the service has only the old one, which stops working at
the end of this time. What is tested is whether the service keeps it until then."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which the sandbox spoils its answer to a refresh; `action` and `details` are those of the sandbox's
    scripted faults."""

    action: str
    details: dict[str, Any] = field(default_factory=dict)
    kinds: Sequence[Kind] = KINDS
    """Kinds of provider that get this fault; at any other kind, the fault itself would end the integration."""
    has_tokens: bool = False
    """Whether the answer, though odd, holds all tokens of a good one; then losing them is never excused."""

    @property
    def name(self) -> str:
        """The name of the fault in the ledger: its action, and the status if it has one."""
        return f"{self.action} {self.details.get('status', '')}".strip()


FAULTS: Final = (
    # The refresh is carried out, and answered when the service has stopped waiting.
    Fault("delay", {"delay_seconds": 15, "when": "after"}),
    Fault("reset_mid_body"),
    Fault("status", {"status": 500}),
    Fault("status", {"status": 429, "headers": {"Retry-After": "2"}}),
    Fault("html"),
    Fault("oversize"),
    Fault("expires_in_missing", has_tokens=True),
    Fault("expires_in_negative", has_tokens=True),
    Fault("expires_in_string", has_tokens=True),
    # Not `strict`: such a provider ends the integration if its answer leaves out the new refresh token.
    Fault("no_refresh_token", kinds=("static", "overlap", "grace")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One fault, inflicted at the time `at`; the integration (in code a connection) whose refresh it spoiled; `first`,
    the service's answer to the request that led to this refresh; and what came of it."""

    fault: Fault
    connection: Connection
    at: datetime
    status: str
    """Status of the integration right after the fault."""
    first: Answer
    calls: int
    """Number of refresh calls that the provider received, from the faulty one until a later request to the service was
    answered with something other than 503, or 45 seconds had passed."""


async def answer_badly(fleet: Fleet, per_kind: int) -> list[Promise]:
    """Test R7: inflict every fault `per_kind` times on each kind of provider that gets it, then test the breaker;
    return the promises. Raises BenchmarkError or DevstackError."""
    await fleet.witness.change("grace", grace_seconds=LONG_GRACE_SECONDS)
    found = await asyncio.gather(*(_cases_of(fleet, kind, per_kind) for kind in KINDS))
    cases = [case for of_kind in found for case in of_kind]
    await fleet.witness.let_go()
    evidence = await gather_evidence(fleet, cases)
    await fleet.witness.change("grace", grace_seconds=GRACE_SECONDS)
    # A strict provider that carried out a refresh without answering has used the token up. The service cannot keep the
    # integration then; it has to flag it.
    lost = sum(
        not (one.works or (one.is_excused and one.is_flagged and not case.fault.has_tokens))
        for case, one in zip(cases, evidence, strict=True)
    )
    unclear = sum(not (case.first.works or (case.first.status == 503 and case.first.retry_after)) for case in cases)
    given_up = sum(case.status not in {"active", "degraded"} for case in cases)
    counts = {"cases": len(cases), "faults": len(FAULTS)}
    return [
        Promise.at_most("R7.lost", f"of {len(cases)} refresh tokens lost", lost, 0, counts=counts),
        Promise.at_most("R7.unclear", "answered neither by a good token nor by 503 with Retry-After", unclear, 0),
        Promise.at_most("R7.given_up", "neither active nor degraded after one bad answer", given_up, 0),
        Promise.at_most(
            "R7.calls", "calls at most, the good one included", max(it.calls for it in cases), CALLS_PER_FAILURE
        ),
        *await _breaker(fleet),
    ]


async def _cases_of(fleet: Fleet, kind: Kind, per_kind: int) -> list[Case]:
    """Inflict each fault `per_kind` times on one kind of provider, one after another, so that none spoils a call meant
    for another, and return the cases. The two APIs take turns, so that neither sees enough failures in a row to open
    its breaker, which `_breaker` tests."""
    cases = []
    for number, fault in enumerate([fault for fault in FAULTS if kind in fault.kinds] * per_kind):
        (connection,) = fleet.take(kind)
        url = fleet.stack.api_urls[number % len(fleet.stack.api_urls)]
        await fleet.rows.run_out(connection)
        await fleet.witness.break_next(kind, fault.action, **fault.details)
        at = datetime.now(UTC)
        fleet.ledger.note("fault", kind=kind, fault=fault.name, user=connection.user_id)
        before = len(await fleet.witness.calls(kind))
        first = await fleet.ask(url, connection, promise="R7")
        state = (await fleet.rows.states([connection]))[connection.id]
        await fleet.rows.end_cool_downs(connection)
        await fleet.ask_patiently(connection, promise="R7")
        calls = len(await fleet.witness.calls(kind)) - before
        cases.append(Case(fault, connection, at, state.status, first, calls))
    return cases


async def _breaker(fleet: Fleet) -> list[Promise]:
    """Test the breaker, by which a process stops calling a provider for a while after several failures in a row: ask a
    new API process for the tokens of twelve integrations whose provider fails every call. Return the promises about the
    number of calls and about integrations that are lost."""
    connections = fleet.take("static", BREAKER_ASKED)
    await fleet.rows.run_out(*connections)
    await fleet.witness.break_next("static", "status", status=500, times=BREAKER_ASKED)
    before = len(await fleet.witness.calls("static"))
    async with parallel_replicas(fleet.stack, fleet.client, fleet.folder / "breaker.log", [{}]) as (replica,):
        for connection in connections:
            await fleet.ask(replica.url, connection, promise="R7")
    calls = len(await fleet.witness.calls("static")) - before
    await fleet.witness.let_go()
    lost = sum(not answer.works for answer in await renewed(fleet, connections, promise="R7"))
    return [
        Promise.at_most("R7.breaker_calls", f"calls of {BREAKER_ASKED} wanted, all failing", calls, BREAKER_FAILURES),
        Promise.at_most("R7.breaker_lost", f"of {BREAKER_ASKED} lost to the outage", lost, 0),
    ]
