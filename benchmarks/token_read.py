"""`POST /internal/tokens/get`, warm: the service against the floor, in turn, over the same database.

What a machine can do differs; how much of it the service takes for itself does not. So the bar is a ratio of rates.
"""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import report, wrk
from benchmarks.deployment import REPOSITORY, Deployment, deployed
from benchmarks.floor import SERVICE_KEY_VARIABLE
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances, Promise
from benchmarks.seeding import PROVIDER, SCOPE, seeded_users
from services.devstack import ports
from services.devstack.procfile import read_procfile

PATH: Final = "/internal/tokens/get"
SERVICE, FLOOR = "service", "floor"
MINIMUM_RATIO_PERCENT: Final = 40.0
MAXIMUM_RESIDENT_MEGABYTES: Final = 160.0
MAXIMUM_P99_MILLISECONDS: Final = 150.0
WARM_UP_SECONDS: Final = 2
_SETTLING_SECONDS: Final = 0.2
MODES: Final = {"fsync on": {}, "synchronous_commit off": {"synchronous_commit": "off"}}
"""What is measured, with its overrides of postgresql.conf: with the disk, and without waiting for it."""
_COUNT: Final = "SELECT count(*) FROM token_reads WHERE outcome = 'granted'"


@dataclass(frozen=True, slots=True)
class Options:
    """What the person chose."""

    seconds: int
    rounds: int
    connections: int
    users: int
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of wrk against one server."""

    load: wrk.LoadResult
    cpu_seconds: float
    """Of the server, without Postgres."""
    recorded: int
    """Rows that appeared in token_reads."""

    @property
    def unaccounted(self) -> int:
        """Recorded, but not answered before wrk left."""
        return self.recorded - self.load.requests


@dataclass(frozen=True, slots=True)
class Subject:
    """All measurements of one server."""

    rounds: tuple[Measurement, ...]
    resident_megabytes: float

    @property
    def requests(self) -> int:
        """Answered in all rounds."""
        return sum(measured.load.requests for measured in self.rounds)

    @property
    def rate(self) -> float:
        """Requests per second, median of the rounds."""
        return statistics.median(measured.load.rate for measured in self.rounds)

    @property
    def p50_milliseconds(self) -> float:
        """Median of the rounds."""
        return statistics.median(measured.load.p50_milliseconds for measured in self.rounds)

    @property
    def p99_milliseconds(self) -> float:
        """Median of the rounds."""
        return statistics.median(measured.load.p99_milliseconds for measured in self.rounds)

    @property
    def cpu_microseconds(self) -> float:
        """Per request, over all rounds."""
        return 1e6 * sum(measured.cpu_seconds for measured in self.rounds) / self.requests

    @property
    def failures(self) -> int:
        """Answers other than 200, and answers that never came."""
        return sum(measured.load.failures for measured in self.rounds)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Service and floor in one mode."""

    mode: str
    service: Subject
    floor: Subject

    @property
    def ratio_percent(self) -> float:
        """The service's rate in percent of the floor's; median of the rounds, each against its neighbour."""
        pairs = zip(self.service.rounds, self.floor.rounds, strict=True)
        return 100 * statistics.median(service.load.rate / floor.load.rate for service, floor in pairs)


def run(options: Options) -> bool:
    """Measure, print and write; whether every bar is met. Raises BenchmarkError or DevstackError."""
    wrk.require()
    circumstances = Circumstances.of("token_read", options.seed)
    print(circumstances.line(), flush=True)
    comparisons = [_compare(mode, options) for mode in MODES]
    promises = [promise for found in comparisons for promise in _promises(found, options, circumstances)]
    print(f"\n{_table(comparisons)}\n")
    for promise in promises:
        print(promise.line())
    if options.json_path:
        details = {"options": {**asdict(options), "json_path": None}, "modes": [_details(c) for c in comparisons]}
        report.write_json(options.json_path, circumstances, promises, details)
    return report.passed(promises)


def _compare(mode: str, options: Options) -> Comparison:
    with deployed(MODES[mode]) as deployment, ExitStack() as stack:
        print(f"{mode}: seeding {options.users} users …", flush=True)
        seeded = deployment.run_python("-m", "benchmarks.seeding", str(options.users), str(options.seed))
        deployment.query("ANALYZE")  # autovacuum would do it in the middle of the run, and plans would change
        key = seeded.last_line
        script = _write_script(deployment.folder / "token_read.lua", key, options)
        servers = [stack.enter_context(server) for server in _servers(deployment, key)]
        for server in servers:
            wrk.run(wrk.Load(server.url, script, options.connections, WARM_UP_SECONDS))
        rounds: dict[str, list[Measurement]] = {server.name: [] for server in servers}
        for number in range(1, options.rounds + 1):
            for server in servers:
                load = wrk.Load(server.url, script, options.connections, options.seconds)
                measured = _measure(deployment, server, load)
                rounds[server.name].append(measured)
                _print_round(mode, number, server.name, measured)
        found = {server.name: Subject(tuple(rounds[server.name]), server.resident_bytes() / 1e6) for server in servers}
    return Comparison(mode, found[SERVICE], found[FLOOR])


def _servers(deployment: Deployment, key: str) -> tuple[ServerUnderTest, ServerUnderTest]:
    web = read_procfile(REPOSITORY / "Procfile", deployment.environment)["web"]
    folder, environment = deployment.folder, deployment.environment
    service_port, floor_port = ports.free_ports(2)
    service = ServerUnderTest(SERVICE, web, port=service_port, environment=environment, folder=folder)
    floor_environment = {**environment, SERVICE_KEY_VARIABLE: key}
    command = ["python", "-m", "benchmarks.floor"]
    floor = ServerUnderTest(FLOOR, command, port=floor_port, environment=floor_environment, folder=folder)
    return service, floor


def _write_script(path: Path, key: str, options: Options) -> Path:
    bodies = [
        json.dumps({"user_id": user.id, "provider": PROVIDER, "scopes": [SCOPE]})
        for user in seeded_users(options.users)
    ]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    wrk.write_script(path, request_path=PATH, headers=headers, bodies=bodies, seed=options.seed)
    return path


def _measure(deployment: Deployment, server: ServerUnderTest, load: wrk.Load) -> Measurement:
    recorded, cpu_seconds = _settled_count(deployment), server.cpu_seconds()
    result = wrk.run(load)
    return Measurement(
        load=result,
        cpu_seconds=server.cpu_seconds() - cpu_seconds,
        recorded=_settled_count(deployment) - recorded,
    )


def _settled_count(deployment: Deployment) -> int:
    """Rows once no more are added: when wrk leaves, one request per connection is still under way."""
    count = -1
    while (now := int(deployment.query(_COUNT))) != count:
        count = now
        time.sleep(_SETTLING_SECONDS)
    return count


def _promises(found: Comparison, options: Options, circumstances: Circumstances) -> list[Promise]:
    """A record that is missing, or one too many, is a bug; so is any answer other than 200."""
    rounds = [*found.service.rounds, *found.floor.rounds]
    counts = {"answered": sum(r.load.requests for r in rounds), "recorded": sum(r.recorded for r in rounds)}
    lost = max(0, -min(measured.unaccounted for measured in rounds))
    surplus = max(0, *(measured.unaccounted for measured in rounds))
    failures = found.service.failures + found.floor.failures
    name, service, idle = f"token_read[{found.mode}]", found.service, circumstances.is_idle
    megabytes, p99 = service.resident_megabytes, service.p99_milliseconds
    return [
        Promise.at_least(f"{name}.ratio", "% of the floor's rate", found.ratio_percent, MINIMUM_RATIO_PERCENT),
        Promise.at_most(f"{name}.memory", "MB resident", megabytes, MAXIMUM_RESIDENT_MEGABYTES),
        Promise.at_most(f"{name}.failures", "answers other than 200", failures, 0, counts=counts),
        Promise.at_most(f"{name}.unrecorded", "answers without a record", lost, 0, counts=counts),
        Promise.at_most(f"{name}.in_flight", "records of unread answers", surplus, options.connections, counts=counts),
        Promise.at_most(f"{name}.p99", "ms p99", p99, MAXIMUM_P99_MILLISECONDS, judged=idle),
    ]


def _print_round(mode: str, number: int, name: str, measured: Measurement) -> None:
    load = measured.load
    print(
        f"{mode}: round {number}, {name}: {load.rate:.0f}/s, {load.requests} answered, {measured.recorded} recorded,"
        f" {load.failures} failed",
        flush=True,
    )


def _table(comparisons: Sequence[Comparison]) -> str:
    rows = [["", "rate/s", "p50 ms", "p99 ms", "CPU µs/request", "RSS MB", "of the floor"]]
    for found in comparisons:
        for name, subject in ((SERVICE, found.service), (FLOOR, found.floor)):
            rows.append(
                [
                    f"{found.mode}, {name}",
                    f"{subject.rate:.0f}",
                    f"{subject.p50_milliseconds:.1f}",
                    f"{subject.p99_milliseconds:.1f}",
                    f"{subject.cpu_microseconds:.0f}",
                    f"{subject.resident_megabytes:.0f}",
                    f"{found.ratio_percent:.1f} %" if name == SERVICE else "",
                ]
            )
    return report.table(rows)


def _details(found: Comparison) -> dict[str, Any]:
    return asdict(found) | {"ratio_percent": found.ratio_percent}
