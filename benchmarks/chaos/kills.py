"""Makes the kills for promises R1 and R2 of the chaos run: SIGKILL of an API process (R1) or a child of a worker (R2)
while it refreshes, at every failpoint (a named place in the code where a test can have the process killed) and at
random moments.

Each kill is one SIGKILL of one process that is about to refresh one integration (in code a connection), and no
integration is used for two kills. The sandbox's faults delay the provider's answer until the kill, and at one failpoint
make it a 503: none of them can cost an integration. What a kill has cost is read from the witnesses afterwards
(`verdict`), not concluded from where it was aimed.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.workers import Worker, worker_in
from services.devstack.replicas import Replica, successive_replicas
from services.sandbox.providers import KINDS, Kind
from services.user_management.core.failpoints import Failpoint
from services.user_management.enums import JobName

KILL_POINTS: Final = (
    Failpoint.BEFORE_LEASE,
    Failpoint.LEASED,
    Failpoint.SENT,
    Failpoint.PROVIDER_COMMITTED,
    Failpoint.ANSWER_ARRIVED,
    Failpoint.ANSWER_PARSED,
    Failpoint.ENCRYPTED,
    Failpoint.STORED,
    Failpoint.BEFORE_ANSWER,
)
"""Failpoints in the order in which a refresh passes them; in reports they are called K0 to K8."""
ONLY_WITH_A_READER: Final = frozenset({Failpoint.BEFORE_ANSWER})
"""Failpoints that the refresh job does not reach, as it answers nobody."""
RANDOM_WITHIN_SECONDS: Final = 0.12
"""Longest delay of a random kill, from about when the process is asked to refresh; a new process takes some 60 ms for
that."""
HOLD_SECONDS: Final = 1.0
"""How long the provider holds a call when the process is to die at K2 (sent) or K3 (carried out by the provider); the
process is dead long before."""
_FIRES_WITHIN_SECONDS: Final = 30.0
_AIMS: Final = 5
_CHILDREN: Final = 6
"""Largest number of children of a worker whose children are killed one by one; Celery replaces dead ones only every
five seconds."""


class Victim(StrEnum):
    """Kind of process that is killed."""

    API = "api"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Kill:
    """Plan of one kill."""

    victim: Victim
    kind: Kind
    point: Failpoint | None
    """Where the process dies; None for a kill `delay` seconds after the process was asked to refresh."""
    delay: float

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make the process die at its failpoint; none for a random kill."""
        return armed_with(self.point)


@dataclass(frozen=True, slots=True)
class Share:
    """How many kills each kind of provider gets. Failpoints find only the faults that somebody thought of, so some
    kills (a fifth in the full run) come at random moments."""

    at_failpoints: int
    at_random: int

    @property
    def total(self) -> int:
        """The number of kills of both sorts."""
        return self.at_failpoints + self.at_random


@dataclass(frozen=True, slots=True)
class Killed:
    """A kill that had been tried by the time `at`, and the integration that the process was to refresh."""

    kill: Kill
    connection: Connection
    pid: int | None
    """Id of the process that SIGKILL ended; None if the kill failed, since no process came to the failpoint or died."""
    at: datetime


def armed_with(point: Failpoint | None) -> dict[str, str]:
    """Return the environment variables that make a process die at `point`; none if `point` is None."""
    return {} if point is None else {"ENVIRONMENT": "test", "FAILPOINT": f"{point}:kill"}


def plan(
    chance: random.Random,
    victim: Victim,
    share: Share,
    kinds: Sequence[Kind] = KINDS,
    *,
    points: Sequence[Failpoint] = KILL_POINTS,
) -> list[Kill]:
    """Plan the same kills for each kind of provider, with order and delays drawn from `chance`. The failpoints of
    `points` take turns; for a worker, those that it does not reach are left out."""
    points = [point for point in points if victim is Victim.API or point not in ONLY_WITH_A_READER]
    aimed: list[Failpoint | None] = [points[number % len(points)] for number in range(share.at_failpoints)]
    kills = [
        Kill(victim, kind, point, chance.uniform(0, RANDOM_WITHIN_SECONDS))
        for kind in kinds
        for point in [*aimed, *[None] * share.at_random]
    ]
    chance.shuffle(kills)
    return kills


async def carry_out(fleet: Fleet, api: Sequence[Kill], worker: Sequence[Kill]) -> tuple[list[Killed], list[Killed]]:
    """Carry out the kills `api` of API processes and the kills `worker` of workers' children at the same time, as one
    side kills while the other waits for a process to start. Return what came of the first and of the second. Raises
    BenchmarkError or DevstackError."""
    return await asyncio.gather(_kill_apis(fleet, api), _kill_workers(fleet, worker))


async def _make_room(fleet: Fleet, kill: Kill) -> None:
    """If the process is to die while it waits for the provider's answer (K2, K3), have the provider delay its next
    answer. For K2 the provider does not carry the call out and answers 503; for K3 it carries it out first. For other
    kills, do nothing."""
    if kill.point is Failpoint.SENT:
        # The provider does not carry the call out. If the fault meets another process's call, nothing is lost either:
        # 503 is a complete answer.
        await fleet.witness.break_next(kill.kind, "status", status=503, delay_seconds=HOLD_SECONDS)
    elif kill.point is Failpoint.PROVIDER_COMMITTED:
        await fleet.witness.break_next(kill.kind, "delay", delay_seconds=HOLD_SECONDS, when="after")


async def _kill_apis(fleet: Fleet, kills: Sequence[Kill]) -> list[Killed]:
    """Start an API process for each kill and kill these processes one after another, while the next ones are starting.
    Return one record per kill, including kills whose failpoint was not reached."""
    environments = [kill.environment for kill in kills]
    log = fleet.folder / "killed-web.log"
    async with aclosing(successive_replicas(fleet.stack, fleet.client, log, environments)) as replicas:
        return [await _kill_api(fleet, await anext(replicas), kill) for kill in kills]


async def _kill_api(fleet: Fleet, replica: Replica, kill: Kill) -> Killed:
    (connection,) = fleet.take(kill.kind)
    if kill.point is None:
        asyncio.get_running_loop().call_later(kill.delay, replica.child.send_signal, signal.SIGKILL)
    ended = None
    for _ in range(_AIMS):
        # Several attempts, as a request may meet the fault that was scripted for another kill.
        await fleet.rows.run_out(connection)
        await fleet.rows.end_cool_downs(connection)
        await _make_room(fleet, kill)
        answer = await fleet.ask(replica.url, connection, promise="R1")
        if answer.status is None or kill.point is None:
            ended = await replica.until_ended()
        if ended is not None:
            break
    at = datetime.now(UTC)
    if ended is None:
        replica.child.kill()
    # Otherwise a later run of the refresh job, which is to renew another integration, would renew this one too.
    await fleet.rows.put_off(connection)
    return _record(fleet, Killed(kill, connection, replica.pid if ended == -signal.SIGKILL else None, at))


async def _kill_workers(fleet: Fleet, kills: Sequence[Kill]) -> list[Killed]:
    """Carry out the kills, one failpoint after another, with a worker for each failpoint and one for the random kills.
    The worker's children are killed one by one, and Celery replaces them; meanwhile the next worker starts. Return one
    record per kill."""
    waiting: dict[Failpoint | None, list[Kill]] = {}
    for kill in kills:
        waiting.setdefault(kill.point, []).append(kill)
    killed = []
    points = list(waiting)
    with ExitStack() as stack:
        workers = [_start_worker(fleet, stack, waiting[point]) for point in points[:1]]
        for number, point in enumerate(points):
            workers += [_start_worker(fleet, stack, waiting[point]) for point in points[number + 1 : number + 2]]
            await workers[number].until_ready()
            killed += [await _kill_worker(fleet, workers[number], kill) for kill in waiting[point]]
            workers[number].kill()
    return killed


def _start_worker(fleet: Fleet, stack: ExitStack, kills: Sequence[Kill]) -> Worker:
    """Start a worker for kills at one failpoint. For random kills it has one child, since nobody outside can see which
    of several does the work."""
    concurrency = 1 if kills[0].point is None else min(len(kills), _CHILDREN)
    return stack.enter_context(worker_in(fleet.stack, fleet.folder, kills[0].environment, concurrency=concurrency))


async def _kill_worker(fleet: Fleet, worker: Worker, kill: Kill) -> Killed:
    """Have the worker run the refresh job when exactly one integration is due, up to five times until a child is
    killed. Return the kill, with the process id of the child if SIGKILL ended one."""
    (connection,) = fleet.take(kill.kind)
    dead = None
    for _ in range(_AIMS):
        (child, *_), known = await worker.children(), worker.deaths()
        await fleet.rows.make_due(connection)
        await fleet.rows.end_cool_downs(connection)
        await _make_room(fleet, kill)
        await fleet.rows.free_slot(JobName.REFRESH_DUE_TOKENS)
        await worker.order(JobName.REFRESH_DUE_TOKENS)
        if kill.point is None:
            await asyncio.sleep(kill.delay)
            await worker.kill_child(child)
        dead = await worker.until_death(known, seconds=_FIRES_WITHIN_SECONDS, unless=lambda: _nobody_dies(fleet, kill))
        if dead is not None:
            break
        # Nobody was killed: the stack's own worker, ordered by beat, was faster.
    at = datetime.now(UTC)
    await fleet.rows.put_off(connection)
    return _record(fleet, Killed(kill, connection, dead, at))


async def _nobody_dies(fleet: Fleet, kill: Kill) -> bool:
    """Tell whether the refresh job has finished although its process was to die at a failpoint; always false for a
    random kill."""
    return kill.point is not None and await fleet.rows.slot_is_done(JobName.REFRESH_DUE_TOKENS)


def _record(fleet: Fleet, killed: Killed) -> Killed:
    fleet.ledger.note(
        "killed",
        victim=killed.kill.victim,
        point=killed.kill.point,
        pid=killed.pid,
        user=killed.connection.user_id,
        kind=killed.connection.kind,
    )
    return killed


def per_point(killed: Sequence[Killed]) -> Counter[str]:
    """Count the kills that ended a process, by the name of their point: `K0` to `K8`, `random`."""
    return Counter(name_of(one.kill.point) for one in killed if one.pid is not None)


def name_of(point: Failpoint | None) -> str:
    """Return the name of a kill's point: `K0` to `K8`, or `random` for None."""
    return "random" if point is None else f"K{KILL_POINTS.index(point)}"
