"""R1 and R2: SIGKILL of a process while it refreshes, at every failpoint and at moments that chance decides.

One kill is one SIGKILL of one process that was about to refresh one connection, which nothing had happened to before.
The faults only make room for the kill: none of them can cost a connection. What a kill has cost is read from the
witnesses afterwards (`verdict`), not concluded from where it was aimed.
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
"""K0 to K8."""
ONLY_WITH_A_READER: Final = frozenset({Failpoint.BEFORE_ANSWER})
"""The refresh job answers nobody."""
RANDOM_WITHIN_SECONDS: Final = 0.12
"""Of sending the request or the order; a refresh of a new process takes about 60 ms."""
HOLD_SECONDS: Final = 1.0
"""How long the provider holds a call that K2 or K3 is about; the process is dead long before."""
_FIRES_WITHIN_SECONDS: Final = 30.0
_AIMS: Final = 5
_CHILDREN: Final = 6
"""Of a worker whose children die one by one: Celery replaces them every five seconds."""


class Victim(StrEnum):
    """What is killed."""

    API = "api"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Kill:
    """How one process is to end."""

    victim: Victim
    kind: Kind
    point: Failpoint | None
    """None: `delay` seconds after it was told to refresh."""
    delay: float

    @property
    def environment(self) -> dict[str, str]:
        """Of the process."""
        return armed_with(self.point)


@dataclass(frozen=True, slots=True)
class Share:
    """Kills per kind. Failpoints find the holes that somebody thought of, so a fifth is left to chance."""

    at_failpoints: int
    at_random: int

    @property
    def total(self) -> int:
        """Both."""
        return self.at_failpoints + self.at_random


@dataclass(frozen=True, slots=True)
class Killed:
    """A kill, and whom it met."""

    kill: Kill
    connection: Connection
    pid: int | None
    """Of the process that SIGKILL has ended; None: the failpoint was not reached."""
    at: datetime


def armed_with(point: Failpoint | None) -> dict[str, str]:
    """The environment of a process that dies there."""
    return {} if point is None else {"ENVIRONMENT": "test", "FAILPOINT": f"{point}:kill"}


def plan(
    chance: random.Random,
    victim: Victim,
    share: Share,
    kinds: Sequence[Kind] = KINDS,
    *,
    points: Sequence[Failpoint] = KILL_POINTS,
) -> list[Kill]:
    """The same kills for each kind, in an order and at random moments that follow from the seed."""
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
    """Both at once: while the one waits for a process to start, the other kills."""
    return await asyncio.gather(_kill_apis(fleet, api), _kill_workers(fleet, worker))


async def _make_room(fleet: Fleet, kill: Kill) -> None:
    """Let the provider be slow where the failpoint is about what it has done so far."""
    if kill.point is Failpoint.SENT:
        # Never carried out; 503 is an answer, so nothing is lost should another process's call meet it.
        await fleet.witness.break_next(kill.kind, "status", status=503, delay_seconds=HOLD_SECONDS)
    elif kill.point is Failpoint.PROVIDER_COMMITTED:
        await fleet.witness.break_next(kill.kind, "delay", delay_seconds=HOLD_SECONDS, when="after")


async def _kill_apis(fleet: Fleet, kills: Sequence[Kill]) -> list[Killed]:
    """One process of the API after the other; the next ones start meanwhile."""
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
        # Again: the request before may have met the fault that another kill had made room with.
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
    # The refresh job of a later quarter of an hour is told to renew another connection.
    await fleet.rows.put_off(connection)
    return _record(fleet, Killed(kill, connection, replica.pid if ended == -signal.SIGKILL else None, at))


async def _kill_workers(fleet: Fleet, kills: Sequence[Kill]) -> list[Killed]:
    """A worker per failpoint, one after the other, while the next one starts; Celery replaces the children that die."""
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
    """For kills at one point. Which of several children has the work is not known from outside, so that it can be
    killed at a random moment it has to be the only one."""
    concurrency = 1 if kills[0].point is None else min(len(kills), _CHILDREN)
    return stack.enter_context(worker_in(fleet.stack, fleet.folder, kills[0].environment, concurrency=concurrency))


async def _kill_worker(fleet: Fleet, worker: Worker, kill: Kill) -> Killed:
    """Have the worker run the refresh job, to which exactly one connection is due."""
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
        # The stack's own worker was faster, on beat's tick: nobody was killed.
    at = datetime.now(UTC)
    await fleet.rows.put_off(connection)
    return _record(fleet, Killed(kill, connection, dead, at))


async def _nobody_dies(fleet: Fleet, kill: Kill) -> bool:
    """Whether the refresh job came to its end, past the failpoint that was to end it."""
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
    """How many kills happened where: `K0` to `K8`, `random`."""
    return Counter(name_of(one.kill.point) for one in killed if one.pid is not None)


def name_of(point: Failpoint | None) -> str:
    """`K0` to `K8`, or `random`."""
    return "random" if point is None else f"K{KILL_POINTS.index(point)}"
