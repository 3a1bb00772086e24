"""Tests promise R8 of the chaos run: readers get a token, and one that has not expired, though the clocks of the
provider and of the service's processes are ten minutes ahead of or behind that of Postgres.

`CLOCK_OFFSET_SECONDS`, which works in the test environment only, shifts the wall clock that a process of the service
reads. A service that stored expiries by that clock would break the promise in both directions: with a clock ten minutes
ahead, it would go on handing out a token after its short life; with one ten minutes behind, every token would count as
expired on arrival, and readers would get none.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.chaos.aftermath import calls_by_account
from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import TOKEN_LIFE_SECONDS, Fleet
from benchmarks.chaos.ledger import Answer
from benchmarks.chaos.waiting import until
from benchmarks.chaos.workers import Worker, worker_in
from benchmarks.errors import BenchmarkError
from benchmarks.report import Promise
from services.devstack.replicas import parallel_replicas
from services.sandbox.providers import KINDS
from services.user_management.enums import JobName

CLOCK_OFFSETS: Final = (-600, 600)
"""Seconds by which a clock is ahead; a negative offset puts it behind."""
PER_KIND: Final = len(CLOCK_OFFSETS) * len(CLOCK_OFFSETS) * 2
"""Integrations of each kind that one repetition uses up: for each offset of the provider's clock and each of the
processes', one that an API refreshes and one that a worker refreshes."""
LIFE_SECONDS: Final = 6
"""Lifetime of an access token in this scenario, so short that its end can be waited for."""
REFRESHES: Final = 2
"""Expected refreshes of each integration: the first, and the one after the life of its token."""
_WRONG_BY_SECONDS: Final = 300.0
"""A refresh whose audit row is further than this from the database's time was the work of a process with a wrong
clock."""
_JOB_SECONDS: Final = 30.0


@dataclass(slots=True)
class Case:
    """An integration (in code a connection) that a process with a wrong clock was to refresh."""

    connection: Connection
    by_wrong_clock: bool
    """Whether the audit row of the refresh bears a wrong time, which proves that such a process did it."""
    answers: list[Answer] = field(default_factory=list)
    """Answers of all API processes, right after the refresh and again when the token had expired; for a refresh by an
    API, also its answer to the request that led to the refresh."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The API processes (`urls`) and workers whose clocks are wrong, one of each for every one of CLOCK_OFFSETS."""

    urls: Sequence[str]
    workers: Sequence[Worker]


async def tell_wrong_time(fleet: Fleet, per_kind: int) -> list[Promise]:
    """Test R8, on each kind of provider `per_kind` times for each combination of the provider's clock and a process's;
    return the promises. Raises BenchmarkError or DevstackError."""
    cases: list[Case] = []
    async with _processes(fleet) as wrong:
        for offset in CLOCK_OFFSETS:
            for kind in KINDS:
                await fleet.witness.offset_clock(kind, offset)
            for _ in range(per_kind):
                cases += await _round(fleet, wrong)
        for kind in KINDS:
            await fleet.witness.offset_clock(kind, 0)
    calls = await calls_by_account(fleet)
    refreshes = [len(calls.get((case.connection.kind, case.connection.account), [])) for case in cases]
    return judge(cases, refreshes)


def judge(cases: Sequence[Case], refreshes: Sequence[int]) -> list[Promise]:
    """Return the promises of R8; `refreshes` has, in the order of `cases`, how many refresh calls the provider received
    for each."""
    answers = [answer for case in cases for answer in case.answers]
    handed_out = [answer for answer in answers if answer.status == 200]
    refused = sum(not answer.works for answer in handed_out)
    wrong = sum(case.by_wrong_clock for case in cases)
    counts = {"answers": len(answers), "cases": len(cases)}
    return [
        Promise.at_least(
            "R8.wrong_clocks", f"of {len(cases)} refreshes were the work of a wrong clock", wrong, len(cases)
        ),
        Promise.at_most("R8.expired", f"of {len(handed_out)} tokens handed out expired", refused, 0, counts=counts),
        Promise.at_most("R8.unserved", "readers who got no token", len(answers) - len(handed_out), 0),
        Promise.at_most("R8.extra", "extra refreshes of one connection at most", max(refreshes) - REFRESHES, 1),
    ]


@asynccontextmanager
async def _processes(fleet: Fleet) -> AsyncIterator[Wrong]:
    """Run an API and a worker for each of CLOCK_OFFSETS, for the length of the block. Meanwhile the providers issue
    short-lived tokens, and the stack's own worker is stopped, so that it is known which worker does the work."""
    environments = [{"ENVIRONMENT": "test", "CLOCK_OFFSET_SECONDS": str(offset)} for offset in CLOCK_OFFSETS]
    log = fleet.folder / "wrong-clocks.log"
    await asyncio.to_thread(fleet.stack.kill, "worker", signal.SIGTERM)
    for kind in KINDS:
        await fleet.witness.change(kind, access_token_lifetime_seconds=LIFE_SECONDS)
    with ExitStack() as stack:
        workers = [stack.enter_context(worker_in(fleet.stack, fleet.folder, one)) for one in environments]
        async with parallel_replicas(fleet.stack, fleet.client, log, environments) as replicas:
            for worker in workers:
                await worker.until_ready()
            yield Wrong([replica.url for replica in replicas], workers)
    for kind in KINDS:
        await fleet.witness.change(kind, access_token_lifetime_seconds=TOKEN_LIFE_SECONDS)
    await asyncio.to_thread(fleet.stack.start_process, "worker")


async def _round(fleet: Fleet, wrong: Wrong) -> list[Case]:
    """Have each process with a wrong clock refresh one integration of each kind, ask all API processes for the tokens
    right after that, and ask again when the tokens have expired. Return the cases."""
    cases: list[Case] = []
    for url in wrong.urls:
        connections = [connection for kind in KINDS for connection in fleet.take(kind)]
        await fleet.rows.run_out(*connections)
        first = [await fleet.ask(url, connection, promise="R8") for connection in connections]
        cases += await _read_at_once(fleet, wrong, connections)
        for case, answer in zip(cases[-len(connections) :], first, strict=True):
            case.answers.append(answer)
    for worker in wrong.workers:
        connections = [connection for kind in KINDS for connection in fleet.take(kind)]
        await _renew_by(fleet, worker, connections)
        cases += await _read_at_once(fleet, wrong, connections)
    await asyncio.sleep(LIFE_SECONDS)
    await _read(fleet, wrong, cases)
    return cases


async def _renew_by(fleet: Fleet, worker: Worker, connections: Sequence[Connection]) -> None:
    await fleet.rows.make_due(*connections)
    await fleet.rows.free_slot(JobName.REFRESH_DUE_TOKENS)
    await worker.order(JobName.REFRESH_DUE_TOKENS)

    async def has_run() -> bool:
        return await fleet.rows.slot_is_done(JobName.REFRESH_DUE_TOKENS)

    if not await until(has_run, seconds=_JOB_SECONDS):
        raise BenchmarkError(f"a worker did not refresh within {_JOB_SECONDS:g} s")


async def _read_at_once(fleet: Fleet, wrong: Wrong, connections: Sequence[Connection]) -> list[Case]:
    """Ask every API process for the tokens and return the cases. Before that, look up whether a process with a wrong
    clock refreshed the tokens, since these requests may refresh them again."""
    errors = await fleet.rows.clock_errors(connections)
    cases = [Case(one, by_wrong_clock=errors.get(one.id, 0.0) > _WRONG_BY_SECONDS) for one in connections]
    await _read(fleet, wrong, cases)
    return cases


async def _read(fleet: Fleet, wrong: Wrong, cases: Sequence[Case]) -> None:
    """Ask every API process, with a wrong clock or a right one, for the token of each case and add the answers to the
    case: all cases at once, but for each case one process after another."""

    async def read(case: Case) -> None:
        for url in (*wrong.urls, *fleet.stack.api_urls):
            case.answers.append(await fleet.ask(url, case.connection, promise="R8"))

    await asyncio.gather(*map(read, cases))
