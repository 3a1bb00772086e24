"""Measures the latency of `/health` and the growth of the service's memory while strangers (clients without a valid
credential) attack: with the costliest bodies or queries, by hanging up in the middle of a body, or with a request head
of many megabytes."""

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import comparison, report
from benchmarks.deployment import Deployment, deployed
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances, Promise
from benchmarks.sequential import Caller, Request

MAXIMUM_P99_RATIO: Final = 5.0
MAXIMUM_MILLISECONDS: Final = 100.0
MAXIMUM_GROWTH_MEGABYTES: Final = 10.0
_HEALTH: Final = Request("GET", "/health", authorization="")
_HEAD_REFUSED: Final = frozenset({414, 431})


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    seconds: int
    strangers: int
    hang_ups: int
    megabytes: int
    """Size of the request head in the attacks `headers` and `url`."""
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Watched:
    """What repeated requests for `/health` showed during one attack or one quiet period."""

    name: str
    requests: int
    p99_milliseconds: float
    slowest_milliseconds: float
    grown_megabytes: float
    """Growth of the service's memory: the largest resident set that was seen, less the one at the start."""
    statuses: Sequence[int] = ()
    """Statuses that the strangers got; 0 where no answer came."""


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("hostile_bodies", options.seed)
    print(circumstances.line(), flush=True)
    with deployed({}, {}) as deployment, comparison.web_server(deployment) as server:
        _watch("warm-up", deployment, server, seconds=options.seconds)
        quiet = _watch("quiet", deployment, server, seconds=options.seconds)
        counts = {"bodies": options.strangers, "queries": options.strangers, "hang_ups": options.hang_ups}
        counts |= dict.fromkeys(("headers", "url"), options.megabytes)
        attacks = [
            _watch(name, deployment, server, seconds=options.seconds, count=count) for name, count in counts.items()
        ]
        log = (deployment.folder / f"{server.name}.log").read_text(errors="replace")
    tracebacks = log.count("Traceback") + log.count("request.crashed")
    details: dict[str, Any] = {
        "options": {**asdict(options), "json_path": None},
        "watched": [asdict(one) for one in (quiet, *attacks)],
    }
    return report.conclude(
        _table([quiet, *attacks]),
        promises(quiet, attacks, tracebacks=tracebacks),
        circumstances,
        json_path=options.json_path,
        details=details,
    )


def promises(quiet: Watched, attacks: Sequence[Watched], *, tracebacks: int) -> list[Promise]:
    """Return a promise for each figure that has a limit, with its verdict.

    Memory under the attacks with bodies and queries has no limit: many connections hold requests at once.
    """
    kept: list[Promise] = []
    for attack in attacks:
        name = f"hostile_bodies.{attack.name}"
        ratio = attack.p99_milliseconds / quiet.p99_milliseconds
        kept.append(Promise.at_most(f"{name}.ratio", "times /health's quiet p99", ratio, MAXIMUM_P99_RATIO))
        if attack.name in {"bodies", "queries"}:
            slowest = attack.slowest_milliseconds
            kept.append(Promise.at_most(f"{name}.slowest", "ms, the slowest", slowest, MAXIMUM_MILLISECONDS))
            let_in = sum(not 400 <= status < 500 for status in attack.statuses)
            answered = {"answered": len(attack.statuses)}
            kept.append(Promise.at_most(f"{name}.let_in", "strangers not refused", let_in, 0, counts=answered))
            continue
        grown = attack.grown_megabytes
        kept.append(Promise.at_most(f"{name}.memory", "MB grown", grown, MAXIMUM_GROWTH_MEGABYTES))
        if attack.name in {"headers", "url"}:
            refused = sum(status in _HEAD_REFUSED for status in attack.statuses)
            kept.append(Promise.at_least(f"{name}.refused", "heads answered 431 or 414", refused, 1))
    kept.append(Promise.at_most("hostile_bodies.tracebacks", "tracebacks in the log", tracebacks, 0))
    return kept


def _watch(
    name: str, deployment: Deployment, server: ServerUnderTest, *, seconds: int, count: int | None = None
) -> Watched:
    """Ask for `/health` again and again for `seconds` and return the measurements. If `count` is given, run the attack
    `name` of that size meanwhile, and go on at least until the attack has ended.

    Raises BenchmarkError.
    """
    print(f"{name} …", flush=True)
    resident = before = server.resident_bytes()
    milliseconds: list[float] = []
    arguments = ("-m", "benchmarks.hostile_strangers", server.url, name, str(count), str(seconds))
    with ThreadPoolExecutor(1) as thread, Caller(server.url) as caller:
        attack = None if count is None else thread.submit(deployment.run_python, *arguments)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or (attack is not None and not attack.done()):
            answer = caller.call(_HEALTH)
            answer.document()
            milliseconds.append(answer.milliseconds)
            resident = max(resident, server.resident_bytes())
            time.sleep(0.002)
        statuses: list[int] = [] if attack is None else json.loads(attack.result().last_line)
    return Watched(
        name=name,
        requests=len(milliseconds),
        p99_milliseconds=statistics.quantiles(milliseconds, n=100)[98],
        slowest_milliseconds=max(milliseconds),
        grown_megabytes=(resident - before) / 1e6,
        statuses=statuses,
    )


def _table(watched: Sequence[Watched]) -> str:
    heading = ["", "/health", "p99 ms", "slowest ms", "RSS MB grown", "attacks", "answered"]
    rows = [
        [
            one.name,
            str(one.requests),
            f"{one.p99_milliseconds:.1f}",
            f"{one.slowest_milliseconds:.1f}",
            f"{one.grown_megabytes:.1f}",
            str(len(one.statuses)),
            " ".join(map(str, sorted(set(one.statuses)))),
        ]
        for one in watched
    ]
    return report.table([heading, *rows])
