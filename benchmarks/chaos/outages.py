"""Tests promise R6 of the chaos run: Postgres is killed after the providers have carried out refreshes and before they
answer, so the answers may hold the only tokens that still work. No integration may be lost in silence."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from benchmarks.chaos.aftermath import gather_evidence, until_settled
from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import Fleet
from benchmarks.report import Promise
from services.sandbox.providers import KINDS

HOLD_SECONDS: Final = 1.0
"""How long the provider holds back the answer to a refresh that it has carried out; Postgres dies in that time."""
HOLD_SECONDS_EACH: Final = 0.05
"""Added to HOLD_SECONDS for each integration, as the first answer has to wait until all refreshes are carried out."""
SHORT_SECONDS: Final = 1.0
"""Time from the providers' last answer to the restart of Postgres in the short outage."""
LONGER_THAN_THE_LEASE_SECONDS: Final = 33.0


@dataclass(frozen=True, slots=True)
class Outage:
    """One integration (in code a connection) whose refresh met the outage. At the time `at`, Postgres was running
    again."""

    connection: Connection
    at: datetime
    was_early: bool
    """Whether its request was answered before Postgres was dead, so that the outage tested nothing."""


async def short_outage(fleet: Fleet, per_kind: int) -> list[Promise]:
    """Test an outage that ends a second after the providers' last answer: no integration, whatever the kind of its
    provider, may be lost. Return the promises. Raises BenchmarkError, DevstackError, MainJobError."""
    struck = await _strike(fleet, per_kind, SHORT_SECONDS)
    await until_settled(fleet, [one.connection for one in struck])
    evidence = await gather_evidence(fleet, struck)
    lost = sum(not one.works for one in evidence)
    return [
        _met(struck, "R6.second_met"),
        Promise.at_most("R6.second_lost", f"of {len(struck)} connections lost", lost, 0),
    ]


async def long_outage(fleet: Fleet, per_kind: int) -> list[Promise]:
    """Test an outage that is longer than a lease, so that the provider's answers are lost. Where the old refresh token
    still works, it must be used again; where it does not (`strict`), the service must say that the user has to
    reconnect. Return the promises. Raises BenchmarkError, DevstackError, MainJobError."""
    struck = await _strike(fleet, per_kind, LONGER_THAN_THE_LEASE_SECONDS)
    await until_settled(fleet, [one.connection for one in struck])
    evidence = await gather_evidence(fleet, struck)
    kept = [one for one in evidence if one.connection.kind != "strict"]
    strict = [one for one in evidence if one.connection.kind == "strict"]
    silent = sum(not one.works and not (one.is_excused and one.is_flagged) for one in strict)
    lost = sum(not one.works for one in kept)
    return [
        _met(struck, "R6.longer_met"),
        Promise.at_most("R6.longer_lost", f"of {len(kept)} static, overlap, grace lost", lost, 0),
        Promise.at_most("R6.longer_silent", f"of {len(strict)} strict neither kept nor flagged", silent, 0),
    ]


def _met(struck: Sequence[Outage], name: str) -> Promise:
    met = sum(not one.was_early for one in struck)
    return Promise.at_least(name, f"of {len(struck)} answers came while Postgres was away", met, len(struck))


async def _strike(fleet: Fleet, per_kind: int, seconds: float) -> Sequence[Outage]:
    """Ask for the tokens of `per_kind` integrations of each kind, kill Postgres when the providers have carried out
    every refresh and answered none, and start it `seconds` after their last answer. Return one outage for each
    integration."""
    connections = [connection for kind in KINDS for connection in fleet.take(kind, per_kind)]
    await fleet.rows.run_out(*connections)
    hold = HOLD_SECONDS + HOLD_SECONDS_EACH * len(connections)
    for kind in KINDS:
        await fleet.witness.break_next(kind, "delay", delay_seconds=hold, when="after", times=per_kind)
    urls = fleet.stack.api_urls
    callers = [
        asyncio.create_task(fleet.ask(urls[number % len(urls)], connection, promise="R6"))
        for number, connection in enumerate(connections)
    ]
    await fleet.witness.until_struck()
    await asyncio.to_thread(fleet.stack.kill, "postgres")
    early = [caller.done() for caller in callers]
    fleet.ledger.note("postgres.killed", connections=len(connections), seconds=hold + seconds)
    await asyncio.sleep(hold + seconds)
    await asyncio.to_thread(fleet.stack.start_process, "postgres")
    back = datetime.now(UTC)
    await asyncio.gather(*callers)
    return [Outage(connection, back, was_early) for connection, was_early in zip(connections, early, strict=True)]
