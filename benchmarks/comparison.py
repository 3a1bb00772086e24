"""Compares the service with its floor (a bare server that does the least work that such a request needs), by putting
the same load on both in turn, over the same database.

Rates depend on the machine; the ratio of the two rates hardly does, so the limit is on the ratio.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from benchmarks import report, wrk
from benchmarks.deployment import REPOSITORY, Deployment
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances, Promise
from services.devstack import ports
from services.devstack.procfile import read_procfile

SERVICE, FLOOR = "service", "floor"
MAXIMUM_RESIDENT_MEGABYTES: Final = 160.0
MAXIMUM_P99_MILLISECONDS: Final = 150.0
WARM_UP_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    seconds: int
    rounds: int
    connections: int
    users: int
    seed: int
    json_path: Path | None

    def as_json(self) -> dict[str, Any]:
        """Return the options as a JSON object for the result file, with null for the path of that file."""
        return {**asdict(self), "json_path": None}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of wrk against one server."""

    load: wrk.LoadResult
    cpu_seconds: float
    """CPU time of the server, without that of Postgres."""

    def line(self) -> str:
        """Return the measurement as one line for a person."""
        return f"{self.load.rate:.0f}/s, {self.load.requests} answered, {self.load.failures} failed"


M = TypeVar("M", bound=Measurement)
Measure = Callable[[ServerUnderTest, wrk.Load], M]


@dataclass(frozen=True, slots=True)
class Subject(Generic[M]):
    """All measurements of one server."""

    rounds: tuple[M, ...]
    resident_megabytes: float

    @property
    def requests(self) -> int:
        """Number of requests answered in all rounds."""
        return sum(measured.load.requests for measured in self.rounds)

    @property
    def rate(self) -> float:
        """Requests per second: the median of the rounds."""
        return statistics.median(measured.load.rate for measured in self.rounds)

    @property
    def p50_milliseconds(self) -> float:
        """Median latency in milliseconds: the median of the rounds."""
        return statistics.median(measured.load.p50_milliseconds for measured in self.rounds)

    @property
    def p99_milliseconds(self) -> float:
        """The 99th percentile of the latency in milliseconds: the median of the rounds."""
        return statistics.median(measured.load.p99_milliseconds for measured in self.rounds)

    @property
    def cpu_microseconds(self) -> float:
        """CPU time per request in microseconds, over all rounds."""
        return 1e6 * sum(measured.cpu_seconds for measured in self.rounds) / self.requests

    @property
    def failures(self) -> int:
        """Number of failures in all rounds: answers with a status of 400 or more, and answers that never came."""
        return sum(measured.load.failures for measured in self.rounds)


@dataclass(frozen=True, slots=True)
class Comparison(Generic[M]):
    """Measurements of the service and of its floor, and the name of what was compared."""

    name: str
    service: Subject[M]
    floor: Subject[M]

    @property
    def ratio_percent(self) -> float:
        """The service's rate in percent of the floor's.

        Each round of the service is divided by the floor's round of the same number, which ran right before or after
        it; the result is the median of these ratios.
        """
        pairs = zip(self.service.rounds, self.floor.rounds, strict=True)
        return 100 * statistics.median(service.load.rate / floor.load.rate for service, floor in pairs)

    @property
    def failures(self) -> int:
        """Number of failures of the service and of the floor together."""
        return self.service.failures + self.floor.failures

    def promises(self, circumstances: Circumstances, *, minimum_ratio_percent: float) -> list[Promise]:
        """Return the promises that every comparison has: on the ratio, the failures of both servers, and the service's
        memory and p99 latency, of which the latter is judged on an idle machine only."""
        service, idle = self.service, circumstances.is_idle
        rounds = [*service.rounds, *self.floor.rounds]
        counts = {"answered": sum(measured.load.requests for measured in rounds)}
        megabytes, p99 = service.resident_megabytes, service.p99_milliseconds
        return [
            Promise.at_least(f"{self.name}.ratio", "% of the floor's rate", self.ratio_percent, minimum_ratio_percent),
            Promise.at_most(f"{self.name}.memory", "MB resident", megabytes, MAXIMUM_RESIDENT_MEGABYTES),
            Promise.at_most(f"{self.name}.failures", "answers other than 200", self.failures, 0, counts=counts),
            Promise.at_most(f"{self.name}.p99", "ms p99", p99, MAXIMUM_P99_MILLISECONDS, judged=idle),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON object for the result file."""
        return asdict(self) | {
            "ratio_percent": self.ratio_percent,
            "cpu_microseconds": {SERVICE: self.service.cpu_microseconds, FLOOR: self.floor.cpu_microseconds},
        }


def web_server(deployment: Deployment, name: str = SERVICE) -> ServerUnderTest:
    """Return the service as a server under test, with the command of its Procfile, not yet started. Raises
    DevstackError."""
    web = read_procfile(REPOSITORY / "Procfile", deployment.environment)["web"]
    (port,) = ports.free_ports()
    return ServerUnderTest(name, web, port=port, environment=deployment.environment, folder=deployment.folder)


def floor_server(deployment: Deployment, module: str, **variables: str) -> ServerUnderTest:
    """Return `python -m MODULE` as a server under test, in the environment of the service plus `variables`, not yet
    started. Raises DevstackError."""
    environment = {**deployment.environment, **variables}
    (port,) = ports.free_ports()
    return ServerUnderTest(
        FLOOR, ["python", "-m", module], port=port, environment=environment, folder=deployment.folder
    )


def measure(server: ServerUnderTest, load: wrk.Load) -> Measurement:
    """Run `load` once against `server`. Raises BenchmarkError."""
    cpu_seconds = server.cpu_seconds()
    result = wrk.run(load)
    return Measurement(load=result, cpu_seconds=server.cpu_seconds() - cpu_seconds)


def compare(
    name: str,
    servers: tuple[ServerUnderTest, ServerUnderTest],
    script: Path,
    options: Options,
    *,
    measure_with: Measure[M],
) -> Comparison[M]:
    """Start the service and its floor, warm both up, and measure them in turn. Raises BenchmarkError."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        for server in servers:
            wrk.run(wrk.Load(server.url, script, options.connections, WARM_UP_SECONDS))
        rounds: dict[str, list[M]] = {server.name: [] for server in servers}
        for number in range(1, options.rounds + 1):
            for server in servers:
                measured = measure_with(server, wrk.Load(server.url, script, options.connections, options.seconds))
                rounds[server.name].append(measured)
                print(f"{name}: round {number}, {server.name}: {measured.line()}", flush=True)
        found = {server.name: Subject(tuple(rounds[server.name]), server.resident_bytes() / 1e6) for server in servers}
    return Comparison(name, found[SERVICE], found[FLOOR])


def table(comparisons: Sequence[Comparison[M]]) -> str:
    """Return the comparisons as a table for a person."""
    rows = [["", "rate/s", "p50 ms", "p99 ms", "CPU µs/request", "RSS MB", "of the floor"]]
    for found in comparisons:
        for name, subject in ((SERVICE, found.service), (FLOOR, found.floor)):
            rows.append(
                [
                    f"{found.name}, {name}",
                    f"{subject.rate:.0f}",
                    f"{subject.p50_milliseconds:.1f}",
                    f"{subject.p99_milliseconds:.1f}",
                    f"{subject.cpu_microseconds:.0f}",
                    f"{subject.resident_megabytes:.0f}",
                    f"{found.ratio_percent:.1f} %" if name == SERVICE else "",
                ]
            )
    return report.table(rows)


def conclude(
    comparisons: Sequence[Comparison[M]],
    promises: Sequence[Promise],
    options: Options,
    circumstances: Circumstances,
) -> bool:
    """Print the table and the promises, and write the result file if `json_path` is set; return whether every limit
    that was judged is kept. Raises OSError."""
    details = {"options": options.as_json(), "modes": [found.as_json() for found in comparisons]}
    return report.conclude(table(comparisons), promises, circumstances, json_path=options.json_path, details=details)
