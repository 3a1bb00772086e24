"""Lets the tokens of ten thousand integrations (by default) expire at once: a worker of the service must renew each of
them once, and its memory must hardly grow."""

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.chaos.fleet import Fleet, fleet_in
from benchmarks.chaos.ledger import ledger_in
from benchmarks.chaos.waiting import until
from benchmarks.errors import BenchmarkError
from benchmarks.processes import resident_bytes
from benchmarks.report import Circumstances, Promise
from services.devstack.folders import scratch_folder
from services.sandbox.providers import Kind
from services.user_management.enums import JobName

KIND: Final[Kind] = "strict"
"""The refresh kind whose refresh tokens work once: a second call with the same one would end the integration."""
PROVIDER_SECONDS: Final = 0.2
MAXIMUM_SECONDS: Final = 1200.0
MAXIMUM_GROWTH_MIB: Final = 20.0
_WARM_SHARE: Final = 0.1
"""Share of the tokens that are renewed before memory is measured for the first time."""
_PATIENCE_SECONDS: Final = 1800.0
_MIB: Final = 1 << 20
_LEFT: Final = """
SELECT count(*) FROM encrypted_tokens
WHERE kind = 'access' AND expires_at < now() + interval '30 minutes'
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    connections: int
    spread_seconds: int
    """Seconds over which the job spreads the calls; with 0 it makes them as fast as it can."""
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """The figures of one run; `renewed` counts the integrations whose tokens were renewed exactly once."""

    calls: int
    most_calls_of_one: int
    renewed: int
    seconds: float
    growth_mib: float
    """Growth of the memory of the worker and its children, from the renewal of the first tenth to the end."""


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError, MainJobError or OSError.
    """
    circumstances = Circumstances.of("refresh_backlog", options.seed)
    print(circumstances.line(), flush=True)
    with scratch_folder() as folder, ledger_in(folder) as ledger:
        environment = {"REFRESH_SPREAD_SECONDS": str(options.spread_seconds)}

        async def measured() -> Backlog:
            async with fleet_in(folder, ledger, environment=environment) as fleet:
                return await _measure(fleet, options)

        backlog = asyncio.run(measured())
    details = {"options": {**asdict(options), "json_path": None}, "backlog": asdict(backlog)}
    promises = _promises(backlog, options, circumstances)
    return report.conclude(_table(backlog), promises, circumstances, json_path=options.json_path, details=details)


async def _measure(fleet: Fleet, options: Options) -> Backlog:
    print(f"connecting {options.connections} users …", flush=True)
    await fleet.connect([KIND], options.connections)
    connections = fleet.take(KIND, options.connections)
    await fleet.witness.change(KIND, delay_seconds=PROVIDER_SECONDS)
    await fleet.rows.make_due(*connections)
    await fleet.rows.free_slot(JobName.REFRESH_DUE_TOKENS)
    print("the refresh job is due …", flush=True)
    began = time.monotonic()

    async def at_most_left(count: float) -> bool:
        return int(await fleet.rows.fetch_value(_LEFT)) <= count

    async def is_warm() -> bool:
        return await at_most_left(options.connections * (1 - _WARM_SHARE))

    async def is_done() -> bool:
        return await at_most_left(0)

    if not await until(is_warm, seconds=_PATIENCE_SECONDS, pause=0.2):
        raise BenchmarkError("the worker did not begin")
    warm = _worker_bytes(fleet)
    if not await until(is_done, seconds=_PATIENCE_SECONDS, pause=0.5):
        raise BenchmarkError(f"the worker was not done within {_PATIENCE_SECONDS:g} s")
    seconds = time.monotonic() - began
    growth = _worker_bytes(fleet) - warm
    calls = await fleet.witness.calls(KIND)
    per_account = Counter(call.account for call in calls)
    states = await fleet.rows.states(connections)
    return Backlog(
        calls=len(calls),
        most_calls_of_one=max(per_account.values(), default=0),
        renewed=sum(states[one.id].token_version == one.token_version + 1 for one in connections),
        seconds=seconds,
        growth_mib=growth / _MIB,
    )


def _worker_bytes(fleet: Fleet) -> int:
    """Return the resident memory of the worker and its children in bytes; pages that they share are counted for
    each."""
    parent = fleet.stack.process("worker").pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sum(resident_bytes(pid) for pid in (parent, *map(int, children)))


def _promises(backlog: Backlog, options: Options, circumstances: Circumstances) -> list[Promise]:
    name, wanted = "refresh_backlog", options.connections
    counts = {"connections": wanted, "calls": backlog.calls}
    return [
        Promise.at_least(f"{name}.renewed", "connections renewed once", backlog.renewed, wanted, counts=counts),
        Promise.at_most(f"{name}.calls", "provider calls", backlog.calls, wanted, counts=counts),
        Promise.at_most(f"{name}.twice", "calls for one connection at most", backlog.most_calls_of_one, 1),
        Promise.at_most(
            f"{name}.seconds", "s from due to done", backlog.seconds, MAXIMUM_SECONDS, judged=circumstances.is_idle
        ),
        Promise.at_most(f"{name}.memory", "MiB that the worker grew", backlog.growth_mib, MAXIMUM_GROWTH_MIB),
    ]


def _table(backlog: Backlog) -> str:
    heading = ["", "calls", "seconds", "calls/s", "worker MiB"]
    rate = backlog.calls / backlog.seconds
    row = ["refresh job", str(backlog.calls), f"{backlog.seconds:.0f}", f"{rate:.1f}", f"{backlog.growth_mib:+.1f}"]
    return report.table([heading, row])
