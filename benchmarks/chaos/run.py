"""Runs the scenarios of the chaos run in their order, and prints the table of promises."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.chaos import bad_answers, clocks, kills, outages, races, restarts
from benchmarks.chaos.aftermath import gather_evidence, until_settled
from benchmarks.chaos.fleet import Fleet, fleet_in
from benchmarks.chaos.kills import Killed, Share, Victim
from benchmarks.chaos.ledger import DRIVER_FILE, PROVIDER_FILE, Ledger, ledger_in
from benchmarks.chaos.verdict import judge
from benchmarks.report import Circumstances, Promise, Verdict
from services.devstack.folders import scratch_folder
from services.sandbox.providers import KINDS

MUST_FAIL_WHEN_NAIVE: Final = (
    "R1.lost_in_silence",
    "R1.left_active",
    "R2.lost_in_silence",
    "R4.calls",
    "R4.reuses",
    "R5.losers",
    "R5.revoked",
    "R8.expired",
    "R8.unserved",
)
"""Promises that the naive refresher has to break: it has no lease and no fence, and takes expiries from its own clock.
If it keeps one of them, the run cannot detect failures."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each scenario is run; numbers are per kind of provider where nothing else is said."""

    api_kills: Share
    worker_kills: Share
    restarts: int
    """In all, not per kind."""
    restart_every_seconds: float
    race_rounds: int
    """In all, not per kind."""
    late_rounds: int
    """In all, not per kind."""
    struck_by_outage: int
    long_outage: bool
    """Whether Postgres is also killed for longer than a lease, which takes more than half a minute."""
    bad_answers: int
    """How often each fault is inflicted."""
    wrong_clocks: int
    """How often each combination of wrong clocks is tried."""

    @property
    def connections(self) -> int:
        """Number of integrations of each kind that is enough for all scenarios."""
        killed = self.api_kills.total + self.worker_kills.total
        outage = self.struck_by_outage * (2 if self.long_outage else 1)
        bad = self.bad_answers * len(bad_answers.FAULTS) + bad_answers.BREAKER_ASKED
        wrong = self.wrong_clocks * clocks.PER_KIND
        return killed + restarts.PER_KIND + 1 + 1 + outage + bad + wrong


QUICK: Final = Size(
    api_kills=Share(at_failpoints=9, at_random=2),
    worker_kills=Share(at_failpoints=8, at_random=1),
    restarts=3,
    restart_every_seconds=0,
    race_rounds=50,
    late_rounds=20,
    struck_by_outage=3,
    long_outage=False,
    bad_answers=1,
    wrong_clocks=1,
)
FULL: Final = Size(
    api_kills=Share(at_failpoints=400, at_random=100),
    worker_kills=Share(at_failpoints=400, at_random=100),
    restarts=15,
    restart_every_seconds=20,
    race_rounds=1000,
    late_rounds=1000,
    struck_by_outage=10,
    long_outage=True,
    bad_answers=5,
    wrong_clocks=10,
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    quick: bool
    naive: bool
    seed: int
    json_path: Path | None
    ledgers: Path | None
    """Folder in which the ledgers are kept; None for a scratch folder."""


def run(options: Options) -> bool:
    """Make the chaos run, print its table and write the result to `json_path` if there is one. Return whether every
    promise was kept, or with `naive` whether every one in MUST_FAIL_WHEN_NAIVE was broken. Ledgers of an earlier run in
    the same folder are deleted.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("chaos", options.seed)
    print(circumstances.line(), flush=True)
    size = QUICK if options.quick else FULL
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        ledgers = options.ledgers or folder
        ledgers.mkdir(parents=True, exist_ok=True)
        for name in (DRIVER_FILE, PROVIDER_FILE):
            (ledgers / name).unlink(missing_ok=True)
        ledger = stack.enter_context(ledger_in(ledgers))
        promises = asyncio.run(_run(folder, ledger, size, options))
    print(f"\n{_table(promises)}\n\n{circumstances.line()}")
    if options.json_path:
        details = {"options": {"quick": options.quick, "naive": options.naive}, "size": asdict(size)}
        report.write_json(options.json_path, circumstances, promises, details)
    return _tells(promises) if options.naive else report.passed(promises)


async def _run(folder: Path, ledger: Ledger, size: Size, options: Options) -> list[Promise]:
    async with fleet_in(folder, ledger, naive=options.naive) as fleet:
        _say(f"connecting {size.connections} users to {len(KINDS)} providers")
        await fleet.connect(KINDS, size.connections)
        promises = await kill_and_race(fleet, size, options)
        for scenario in _scenarios(fleet, size, naive=options.naive):
            promises += await scenario()
        promises.append(handed_out(ledger))
        return promises


async def kill_and_race(fleet: Fleet, size: Size, options: Options) -> list[Promise]:
    """Test R1 to R4 and return the promises; the races and restarts run while the leases of killed processes run out.
    Under `naive`, the restarts (R3) are left out."""
    chance = random.Random(options.seed)  # noqa: S311 - reproducible on purpose
    api = kills.plan(chance, Victim.API, size.api_kills)
    worker = kills.plan(chance, Victim.WORKER, size.worker_kills)
    _say(f"R1 R2: {len(api) + len(worker)} kills")
    of_api, of_worker = await kills.carry_out(fleet, api, worker)
    _say(f"R4: {size.race_rounds} races")
    races_found = await races.race(fleet, size.race_rounds)
    rolled: list[Promise] = []
    if not options.naive:
        _say(f"R3: {size.restarts} restarts")
        rolled = await restarts.roll(fleet, size.restarts, every_seconds=size.restart_every_seconds, chance=chance)
    _say("R1 R2: the verdict")
    return [
        *await _judge(fleet, "R1", of_api, len(api)),
        *await _judge(fleet, "R2", of_worker, len(worker)),
        *rolled,
        *races_found,
    ]


async def _judge(fleet: Fleet, name: str, killed: Sequence[Killed], planned: int) -> list[Promise]:
    await until_settled(fleet, [one.connection for one in killed])
    evidence = await gather_evidence(fleet, killed)
    happened = sum(one.pid is not None for one in killed)
    return judge(name, evidence, kills=happened, planned=planned, per_point=kills.per_point(killed))


def _scenarios(fleet: Fleet, size: Size, *, naive: bool) -> list[Callable[[], Awaitable[list[Promise]]]]:
    """Return the scenarios of R5, R8, R7 and R6, in this order. They change providers, clocks and servers for all
    integrations, so they must run after the refreshes of killed processes are settled. Under `naive`, return only R5
    and R8, which the naive refresher has to fail."""

    async def wrong_time() -> list[Promise]:
        _say("R8: clocks ten minutes off, the provider's and ours")
        return await clocks.tell_wrong_time(fleet, size.wrong_clocks)

    async def late() -> list[Promise]:
        _say(f"R5: {size.late_rounds} losers")
        return await races.come_too_late(fleet, size.late_rounds)

    if naive:
        return [late, wrong_time]

    async def bad() -> list[Promise]:
        _say(f"R7: {len(bad_answers.FAULTS)} bad answers for each kind, {size.bad_answers} times")
        return await bad_answers.answer_badly(fleet, size.bad_answers)

    async def outage() -> list[Promise]:
        _say("R6: Postgres is killed")
        return await outages.short_outage(fleet, size.struck_by_outage)

    async def longer() -> list[Promise]:
        _say("R6: Postgres is killed for longer than a lease")
        return await outages.long_outage(fleet, size.struck_by_outage)

    return [late, wrong_time, bad, outage, *([longer] if size.long_outage else [])]


def handed_out(ledger: Ledger) -> Promise:
    """Return the promise that in the whole run no token was handed out that the provider refused right afterwards."""
    return Promise.at_most(
        "R.refused", f"of {ledger.handed_out()} tokens handed out refused", ledger.refused_by_provider(), 0
    )


def _tells(promises: Sequence[Promise]) -> bool:
    """Print and return whether the naive refresher broke all promises that it had to break."""
    failed = {promise.id for promise in promises if promise.verdict is Verdict.FAIL}
    missed = [name for name in MUST_FAIL_WHEN_NAIVE if name not in failed]
    told = (
        "failed as it had to: the run can tell"
        if not missed
        else f"did not fail {', '.join(missed)}: no run can be trusted"
    )
    print(f"\nThe naive refresher {told}.")
    return not missed


def _table(promises: Sequence[Promise]) -> str:
    rows = [
        (
            promise.id,
            f"{promise.figure:.2f}",
            promise.limit,
            promise.verdict.upper() if promise.verdict is Verdict.FAIL else promise.verdict.value,
            " ".join([f"{promise.what}.", *(f"{name}={value:g}" for name, value in sorted(promise.counts.items()))]),
        )
        for promise in sorted(promises, key=lambda promise: promise.id)
    ]
    return "\n".join(
        f"{name:<30} {figure:>8}  {limit:<7} {verdict:<10} {what}" for name, figure, limit, verdict, what in rows
    )


def _say(text: str) -> None:
    print(f"{text} …", flush=True)
