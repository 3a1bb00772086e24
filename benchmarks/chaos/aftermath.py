"""What the chaos run does after it has inflicted failures: it waits until no refresh is under way or of unknown
outcome, asks for new tokens, and collects the evidence from which `verdict` judges."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.ledger import Answer
from benchmarks.chaos.meter import SCRAPE_SECONDS
from benchmarks.chaos.verdict import Evidence
from benchmarks.chaos.waiting import until
from benchmarks.chaos.witness import Call
from services.sandbox.providers import KINDS, Kind

_ASKED_AT_ONCE: Final = 8
_SETTLES_WITHIN_SECONDS: Final = 90.0


class Harmed(Protocol):
    """An integration (in code a connection) on which a failure was inflicted; it cannot have been lost before `at`."""

    @property
    def connection(self) -> Connection: ...

    @property
    def at(self) -> datetime: ...


async def until_settled(fleet: Fleet, connections: Sequence[Connection]) -> None:
    """Wait until none of `connections` has a refresh that is under way or whose outcome is unknown. Return after 90
    seconds even if some have: what they cost shows in the verdict."""

    async def none_is_open() -> bool:
        return await fleet.rows.count_unsettled(connections) == 0

    await until(none_is_open, seconds=_SETTLES_WITHIN_SECONDS, pause=0.5)


async def gather_evidence(fleet: Fleet, harmed: Sequence[Harmed]) -> list[Evidence]:
    """Return the evidence about each harmed integration, in the order given. First read its row and, two scrapes of the
    metrics later, the provider's calls; then make its access token expire, ask the service for a fresh one, use that at
    the provider, and read the row again. Raises MainJobError."""
    connections = [one.connection for one in harmed]
    states = await fleet.rows.states(connections)
    # Two scrapes later, the meter has seen every change that is committed by now.
    await asyncio.sleep(2 * SCRAPE_SECONDS)
    calls = await calls_by_account(fleet)
    answers = await renewed(fleet, connections, promise="aftermath")
    ends = await fleet.rows.states(connections)
    return [
        Evidence(
            one.connection,
            one.at,
            answer,
            ends[one.connection.id].token_version > states[one.connection.id].token_version,
            states[one.connection.id],
            calls.get((one.connection.kind, one.connection.account), []),
            fleet.meter.seen_at(one.connection.kind, states[one.connection.id].interrupted_number),
        )
        for one, answer in zip(harmed, answers, strict=True)
    ]


async def renewed(fleet: Fleet, connections: Sequence[Connection], *, promise: str) -> list[Answer]:
    """Make the access token of each integration expire, as an old one that still works would say nothing about the
    refresh token, and end the wait before its next refresh. Then ask the service for new tokens and return the answers,
    in the order of `connections`; the ledger notes them under `promise`."""
    gate = asyncio.Semaphore(_ASKED_AT_ONCE)
    await fleet.rows.run_out(*connections)
    await fleet.rows.end_cool_downs(*connections)

    async def ask(connection: Connection) -> Answer:
        async with gate:
            return await fleet.ask_patiently(connection, promise=promise)

    return await asyncio.gather(*map(ask, connections))


async def calls_by_account(fleet: Fleet) -> dict[tuple[Kind, str], list[Call]]:
    """Return the refresh calls that all providers have received so far, by kind of provider and account. Calls for
    which the provider names no account are left out. Raises MainJobError."""
    found: dict[tuple[Kind, str], list[Call]] = {}
    for kind in KINDS:
        for call in await fleet.witness.calls(kind):
            if call.account is not None:
                found.setdefault((kind, call.account), []).append(call)
    return found
