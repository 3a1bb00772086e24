"""Puts a steady load on `POST /internal/tokens/get`: each read must be answered in time and recorded exactly once."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import comparison, report
from benchmarks.deployment import NOBODY_REFUSED, Deployment, deployed
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances, Promise
from benchmarks.seeding import SeededUser
from benchmarks.token_load_driver import Read
from benchmarks.token_read_floor import SERVICE_KEY_VARIABLE
from services.devstack import process

MINIMUM_RATE_PERCENT: Final = 99.0
_WARM_UP_SECONDS: Final = 5
_GRACE_SECONDS: Final = 60.0
"""Extra time for the driver to start, to wait for the last answers and to write its ledger."""
_RECORDED: Final = """
SELECT coalesce(json_object_agg(user_id, reads), '{}')
FROM (SELECT user_id, count(*) AS reads FROM token_reads WHERE outcome = 'granted' GROUP BY user_id) AS recorded
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    seconds: int
    rate: int
    """Reads per second."""
    users: int
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of the load; `recorded` is the number of reads that the service recorded."""

    sent: int
    refused: int
    """Number of reads answered with a status from 300 to 499."""
    failed: int
    """Number of reads answered with 500 or more, or not at all."""
    recorded: int
    differing: int
    """Number of users for whom the number of records differs from the number of reads sent."""
    rate: float
    """Reads per second that were answered 200."""
    p50_milliseconds: float
    """Latency from when a read was due; the next two are counted from then too."""
    p99_milliseconds: float
    slowest_milliseconds: float
    late_milliseconds: float
    """How late the driver was, p99: from when a read was due to when it was sent."""
    cpu_microseconds: float
    """CPU time of the service for one read."""
    resident_megabytes: tuple[float, float]
    """Resident memory of the service after the warm-up and at the end."""


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("token_load", options.seed)
    print(circumstances.line(), flush=True)
    with deployed({}, NOBODY_REFUSED) as deployment:
        print(f"seeding {options.users} users …", flush=True)
        seeded = deployment.run_python("-m", "benchmarks.seeding", "connected", str(options.users), str(options.seed))
        deployment.query("ANALYZE")
        with comparison.web_server(deployment) as server:
            load = _load(deployment, server, options, key=seeded.last_line)
    details: dict[str, Any] = {"options": {**asdict(options), "json_path": None}, "load": asdict(load)}
    promises = _promises(load, options, circumstances)
    return report.conclude(_table(load), promises, circumstances, json_path=options.json_path, details=details)


def _load(deployment: Deployment, server: ServerUnderTest, options: Options, *, key: str) -> Load:
    _drive(deployment, server, options, key=key, seconds=_WARM_UP_SECONDS)
    deployment.query("TRUNCATE token_reads")
    resident, cpu_seconds = server.resident_bytes() / 1e6, server.cpu_seconds()
    print(f"{options.rate} reads a second for {options.seconds} s …", flush=True)
    reads = _drive(deployment, server, options, key=key, seconds=options.seconds)
    cpu_seconds = server.cpu_seconds() - cpu_seconds
    recorded: dict[str, int] = json.loads(deployment.query(_RECORDED))
    times = [1e3 * (read.answered - read.due) for read in reads]
    good = sum(read.status == 200 for read in reads)
    return Load(
        sent=len(reads),
        refused=sum(300 <= read.status < 500 for read in reads),
        failed=sum(read.status >= 500 or read.status == 0 for read in reads),
        recorded=sum(recorded.values()),
        differing=differing_users(reads, recorded),
        rate=good / max(options.seconds, *(read.answered for read in reads)),
        p50_milliseconds=statistics.median(times),
        p99_milliseconds=_p99(times),
        slowest_milliseconds=max(times),
        late_milliseconds=_p99([1e3 * (read.sent - read.due) for read in reads]),
        cpu_microseconds=1e6 * cpu_seconds / len(reads),
        resident_megabytes=(resident, server.resident_bytes() / 1e6),
    )


def _drive(deployment: Deployment, server: ServerUnderTest, options: Options, *, key: str, seconds: int) -> list[Read]:
    """Run the driver for `seconds` and return how each read went. Raises BenchmarkError."""
    ledger = deployment.folder / "token_load.jsonl"
    numbers = (options.users, options.rate, seconds, options.seed)
    finished = process.run(
        ["python", "-m", "benchmarks.token_load_driver", server.url, SERVICE_KEY_VARIABLE, *map(str, numbers), ledger],
        env={**deployment.environment, SERVICE_KEY_VARIABLE: key},
        cwd=deployment.folder,
        timeout=seconds + _GRACE_SECONDS,
    )
    if finished.returncode != 0:
        how = process.describe_end(finished.returncode)
        raise BenchmarkError(f"the driver ended ({how}): {finished.last_line}")
    return [Read(*json.loads(line)) for line in ledger.read_text().splitlines()]


def differing_users(reads: list[Read], recorded: Mapping[str, int]) -> int:
    """Count the users for whom the number of records differs from the number of reads sent.

    A record under another user's name shows too, as it makes the numbers of both users differ.
    """
    sent = Counter(SeededUser.numbered(read.user).id for read in reads)
    return sum(sent[user] != recorded.get(user, 0) for user in sent.keys() | recorded.keys())


def _p99(figures: list[float]) -> float:
    return statistics.quantiles(figures, n=100)[98]


def _promises(load: Load, options: Options, circumstances: Circumstances) -> list[Promise]:
    name, idle = "token_load", circumstances.is_idle
    counts = {"sent": load.sent, "recorded": load.recorded}
    start, end = load.resident_megabytes
    rate_percent = 100 * load.rate / options.rate
    p99, missing = load.p99_milliseconds, abs(load.sent - load.recorded)
    resident = comparison.MAXIMUM_RESIDENT_MEGABYTES
    return [
        Promise.at_most(f"{name}.failures", "answers of 500 and more, or none", load.failed, 0, counts=counts),
        Promise.at_most(f"{name}.refused", "reads refused", load.refused, 0, counts=counts),
        Promise.at_most(f"{name}.unrecorded", "reads sent, less records", missing, 0, counts=counts),
        Promise.at_most(f"{name}.differing", "users with another number of records", load.differing, 0),
        Promise.at_most(f"{name}.memory", "MB resident", end, resident, counts={"start": start, "end": end}),
        Promise.at_most(f"{name}.p99", "ms p99", p99, comparison.MAXIMUM_P99_MILLISECONDS, judged=idle),
        Promise.at_least(f"{name}.rate", "% of the offered rate", rate_percent, MINIMUM_RATE_PERCENT, judged=idle),
    ]


def _table(load: Load) -> str:
    start, end = load.resident_megabytes
    heading = ["", "answered/s", "p50 ms", "p99 ms", "slowest ms", "driver late p99 ms", "CPU µs/read", "RSS MB"]
    row = [
        f"{load.sent} reads, {load.recorded} records",
        f"{load.rate:.1f}",
        f"{load.p50_milliseconds:.1f}",
        f"{load.p99_milliseconds:.1f}",
        f"{load.slowest_milliseconds:.0f}",
        f"{load.late_milliseconds:.1f}",
        f"{load.cpu_microseconds:.0f}",
        f"{start:.0f} → {end:.0f}",
    ]
    return report.table([heading, row])
