"""Sends one API process a burst of Clerk's webhooks, each twice, in random order: each delivery must be answered 2xx,
and each webhook must take effect once."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import comparison, report
from benchmarks.deployment import Deployment, deployed
from benchmarks.report import Circumstances, Promise
from benchmarks.webhook_ledger import Ledger, differences
from benchmarks.webhook_sender import PATIENCE_SECONDS, Delivery

MAXIMUM_P99_SECONDS: Final = 2.0
MINIMUM_RATE_PERCENT: Final = 99.0
_SHOWN_DIFFERENCES: Final = 5
_APPLIED: Final = "SELECT count(*) FROM webhook_events WHERE applied_at IS NOT NULL"
_FAILED: Final = "SELECT count(*) FROM webhook_events WHERE applied_at IS NULL OR error IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    messages: int
    """Number of webhooks; each is delivered twice."""
    rate: int
    """Deliveries per second."""
    connections: int
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Burst:
    """The figures of the burst. `applied` is the number of events in the inbox that were applied, and `differences` has
    a line for each way in which the database differs from what it should hold."""

    deliveries: int
    refused: int
    """Number of deliveries not answered 2xx."""
    rate: float
    """Deliveries per second that were sent."""
    p50_seconds: float
    """Median latency from when a delivery was due, so that waiting for a connection counts; the p99 is timed alike."""
    p99_seconds: float
    slowest_seconds: float
    """Longest time from sending a delivery to its answer, which is what a sender's timeout bounds."""
    cpu_milliseconds: float
    """CPU time of the service for one delivery."""
    applied: int
    failed: int
    """Number of events in the inbox that were not applied or have an error."""
    differences: Sequence[str]


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("webhook_burst", options.seed)
    print(circumstances.line(), flush=True)
    with deployed({}, {}) as deployment:
        burst = _burst(deployment, options)
    promises = _promises(burst, options, circumstances)
    for difference in burst.differences[:_SHOWN_DIFFERENCES]:
        print(f"differs: {difference}")
    details: dict[str, Any] = {"options": {**asdict(options), "json_path": None}, "burst": asdict(burst)}
    return report.conclude(_table(burst), promises, circumstances, json_path=options.json_path, details=details)


def _burst(deployment: Deployment, options: Options) -> Burst:
    ledger_path = deployment.folder / "ledger.jsonl"
    with comparison.web_server(deployment) as server:
        print(f"{2 * options.messages} deliveries at {options.rate}/s …", flush=True)
        numbers = (options.messages, options.rate, options.connections, options.seed)
        cpu_seconds = server.cpu_seconds()
        deployment.run_python("-m", "benchmarks.webhook_sender", server.url, *map(str, numbers), str(ledger_path))
        cpu_seconds = server.cpu_seconds() - cpu_seconds
    ledger = Ledger.read(ledger_path)
    seconds = sorted(delivery.answered - delivery.due for delivery in ledger.deliveries)
    return Burst(
        deliveries=len(seconds),
        refused=sum(not delivery.accepted for delivery in ledger.deliveries),
        rate=_rate(ledger.deliveries, options.rate),
        p50_seconds=statistics.median(seconds),
        p99_seconds=statistics.quantiles(seconds, n=100)[98],
        slowest_seconds=max(delivery.answered - delivery.sent for delivery in ledger.deliveries),
        cpu_milliseconds=1e3 * cpu_seconds / len(seconds),
        applied=int(deployment.query(_APPLIED)),
        failed=int(deployment.query(_FAILED)),
        differences=differences(ledger, deployment),
    )


def _rate(deliveries: Sequence[Delivery], offered: int) -> float:
    """Return the deliveries sent per second; the interval after the last one counts too."""
    return len(deliveries) / (max(delivery.sent for delivery in deliveries) + 1 / offered)


def _promises(burst: Burst, options: Options, circumstances: Circumstances) -> list[Promise]:
    name, wanted = "webhook_burst", 2 * options.messages
    idle = circumstances.is_idle
    answered = burst.deliveries - burst.refused
    rate_percent = 100 * burst.rate / options.rate
    counts = {"deliveries": burst.deliveries, "refused": burst.refused}
    return [
        Promise.at_least(f"{name}.answered", "deliveries answered 2xx", answered, wanted, counts=counts),
        Promise.at_least(f"{name}.applied", "events with their effect", burst.applied, options.messages),
        Promise.at_most(f"{name}.failed", "events without it", burst.failed, 0),
        Promise.at_most(f"{name}.differences", "from the ledger", len(burst.differences), 0),
        Promise.at_most(f"{name}.slowest", "s, the slowest answer", burst.slowest_seconds, PATIENCE_SECONDS),
        Promise.at_most(f"{name}.p99", "s p99", burst.p99_seconds, MAXIMUM_P99_SECONDS, judged=idle),
        Promise.at_least(f"{name}.rate", "% of the offered rate", rate_percent, MINIMUM_RATE_PERCENT, judged=idle),
    ]


def _table(burst: Burst) -> str:
    heading = ["", "sent/s", "p50 ms", "p99 ms", "slowest ms", "CPU ms/delivery", "applied"]
    row = [
        f"{burst.deliveries} deliveries",
        f"{burst.rate:.0f}",
        f"{1e3 * burst.p50_seconds:.0f}",
        f"{1e3 * burst.p99_seconds:.0f}",
        f"{1e3 * burst.slowest_seconds:.0f}",
        f"{burst.cpu_milliseconds:.1f}",
        str(burst.applied),
    ]
    return report.table([heading, row])
