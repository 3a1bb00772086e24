"""Tests promises R4 and R5 of the chaos run: processes that refresh one integration at once make a single call of the
provider between them (R4), and a process whose call is refused too late does no harm to newer tokens (R5)."""

import asyncio
from typing import Final

from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.ledger import Answer
from benchmarks.chaos.waiting import until
from benchmarks.chaos.workers import Worker, worker_in
from benchmarks.errors import BenchmarkError
from benchmarks.report import Promise
from services.sandbox.providers import KINDS
from services.user_management.enums import JobName

CALLERS_PER_API: Final = 2
PROVIDER_SECONDS: Final = 0.1
"""How long the provider takes for a refresh: long enough for the requests of all other callers to arrive."""
JOBS: Final = (JobName.REFRESH_DUE_TOKENS, JobName.SWEEP_LEASES)
_ROUND_SECONDS: Final = 60.0
_HOLD_SECONDS: Final = 7.0
"""How long the provider holds the call of the process that is to lose: shorter than the 8 s that the service waits for
a provider, longer than another process needs to refresh."""


async def race(fleet: Fleet, rounds: int) -> list[Promise]:
    """Test R4, `rounds` times: the token of a strict provider (each refresh token works once) has expired, and two
    workers and two APIs want it at once. The first answer 409 (the user has to reconnect) ends the test. Return the
    promises. Raises BenchmarkError, DevstackError, MainJobError."""
    (connection,) = fleet.take("strict")
    await fleet.witness.change("strict", delay_seconds=PROVIDER_SECONDS)
    answers: list[Answer] = []
    done = 0
    with worker_in(fleet.stack, fleet.folder, {}) as first, worker_in(fleet.stack, fleet.folder, {}) as second:
        await asyncio.gather(first.until_ready(), second.until_ready())
        while done < rounds and all(answer.status != 409 for answer in answers):
            workers = (first, second) if done % 2 else (second, first)
            answers += await _race_once(fleet, connection, workers)
            done += 1
    await fleet.witness.change("strict", delay_seconds=0)
    calls = await fleet.witness.calls_of("strict", connection.account)
    counts = {"rounds": done, "answers": len(answers), "calls": len(calls)}
    return [
        Promise.at_least("R4.rounds", f"of {rounds} rounds run", done, rounds, counts=counts),
        Promise.at_most("R4.calls", "provider calls per expiry", len(calls) / done, 1.0, counts=counts),
        Promise.at_least("R4.refreshes", "refreshes per expiry", sum(call.committed for call in calls) / done, 1.0),
        Promise.at_most(
            "R4.reuses", "refresh tokens used twice", await fleet.witness.reuses("strict", connection.account), 0
        ),
        Promise.at_most("R4.unserved", "callers without a good token", sum(not one.works for one in answers), 0),
    ]


async def _race_once(fleet: Fleet, connection: Connection, workers: tuple[Worker, Worker]) -> list[Answer]:
    """Run one round of R4 and return the readers' answers. The refresh job sees the token as due, the sweeper sees a
    refresh that a dead process left behind, and the readers see an expired token. Raises BenchmarkError when a job has
    not run after 60 seconds."""
    await fleet.rows.make_due(connection)
    await fleet.rows.leave_unsettled(connection)
    for job in JOBS:
        await fleet.rows.free_slot(job)
    callers = [fleet.ask(url, connection, promise="R4") for url in fleet.stack.api_urls for _ in range(CALLERS_PER_API)]
    orders = [worker.order(job) for worker, job in zip(workers, JOBS, strict=True)]
    *answers, _, _ = await asyncio.gather(*callers, *orders)

    async def both_ran() -> bool:
        return all([await fleet.rows.slot_is_done(job) for job in JOBS])

    if not await until(both_ran, seconds=_ROUND_SECONDS):
        raise BenchmarkError(f"the workers did not run {' and '.join(JOBS)} within {_ROUND_SECONDS:g} s")
    return [answer for answer in answers if answer is not None]


async def come_too_late(fleet: Fleet, rounds: int) -> list[Promise]:
    """Test R5, `rounds` times: a process, the loser, loses its lease while the provider holds its call, and gets
    invalid_grant after another process, the winner, has stored new tokens. The first answer 409 (the user has to
    reconnect) from a loser ends the test. Return the promises. Raises BenchmarkError, MainJobError."""
    connections = [fleet.take(kind)[0] for kind in KINDS]
    losers: list[Answer] = []
    winners: list[Answer] = []
    for number in range(rounds):
        winner, loser = await _lose(fleet, connections[number % len(connections)])
        winners.append(winner)
        losers.append(loser)
        if loser.status == 409:
            break  # the integration is given up: there is nothing left to race for
    states = await fleet.rows.states(connections)
    revoked = sum(state.status != "active" for state in states.values())
    counts = {"rounds": rounds, "winners": sum(one.works and one.refreshed for one in winners)}
    return [
        Promise.at_least("R5.winners", "winners who refreshed", counts["winners"], rounds, counts=counts),
        Promise.at_most("R5.losers", "losers without the winner's token", sum(not one.works for one in losers), 0),
        Promise.at_most("R5.revoked", f"of {len(states)} connections wrongly given up", revoked, 0, counts=counts),
    ]


async def _lose(fleet: Fleet, connection: Connection) -> tuple[Answer, Answer]:
    """Run one round of R5 on `connection`; return the winner's answer and the loser's."""
    first, second = fleet.stack.api_urls
    await fleet.rows.run_out(connection)
    await fleet.witness.break_next(
        connection.kind, "error", error="invalid_grant", delay_seconds=_HOLD_SECONDS, when="before"
    )
    loser = asyncio.create_task(fleet.ask(first, connection, promise="R5"))
    await fleet.witness.until_struck()
    await fleet.rows.end_leases(connection)
    winner = await fleet.ask(second, connection, promise="R5")
    await fleet.witness.let_go()
    return winner, await loser
