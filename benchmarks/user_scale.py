"""Times the same kinds of requests in a deployment of a thousand users and in one of a million (by default), in turn.

Both deployments run at the same time. A time that grows with the number of users belongs to a query that no index
serves.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import comparison, report
from benchmarks.deployment import NOBODY_REFUSED, Deployment, deployed
from benchmarks.population import populate
from benchmarks.report import Circumstances, Promise
from benchmarks.sequential import Caller
from benchmarks.sessions import SessionIssuer
from benchmarks.user_scale_cases import Case, CaseMaker, wide_prefixes

SMALL_USERS: Final = 1000
MAXIMUM_RATIO: Final = 1.5
_POSTGRES_SETTINGS: Final = {"max_wal_size": "8GB", "checkpoint_timeout": "1h"}
"""Settings that keep Postgres from a checkpoint while a million rows are inserted and while requests are measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    users: int
    requests: int
    """Measured requests per case and deployment; the same requests warm up before them."""
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Timing:
    """The median time of one case in one deployment, and what its answers held."""

    p50_milliseconds: float
    rows: float
    """Average number of users in an answer."""
    failures: int
    """Number of answers with a status other than 200."""

    @classmethod
    def of(cls, answers: Sequence["Sample"]) -> "Timing":
        """Summarise the samples of one case."""
        return cls(
            statistics.median(sample.milliseconds for sample in answers),
            statistics.fmean(sample.rows for sample in answers),
            sum(sample.failed for sample in answers),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """The time of one answer and the number of users in it; `failed` if its status is not 200, and then `rows` is 0."""

    milliseconds: float
    rows: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Growth:
    """The timings of one case in both deployments."""

    case: str
    small: Timing
    large: Timing

    @property
    def ratio(self) -> float:
        """The median time in the large deployment, divided by that in the small one."""
        return self.large.p50_milliseconds / self.small.p50_milliseconds

    def promises(self) -> list[Promise]:
        """Return three promises: the growth is within its limit, all answers were 200, and they held a user or more on
        average."""
        name = f"user_scale[{self.case}]"
        failures = self.small.failures + self.large.failures
        rows = {"small": self.small.rows, "large": self.large.rows}
        return [
            Promise.at_most(f"{name}.growth", "x the small p50", self.ratio, MAXIMUM_RATIO, counts=rows),
            Promise.at_most(f"{name}.failures", "answers other than 200", failures, 0),
            Promise.at_least(f"{name}.rows", "users in the fewest", min(rows.values()), 1, counts=rows),
        ]


@dataclass(frozen=True, slots=True)
class Town:
    """A deployment whose service runs: the connection to the service, and the cases to send."""

    caller: Caller
    cases: list[Case]

    def ask(self, case: int, number: int) -> Sample:
        """Send the request `number` of the case `case`, both counted from 0. Raises BenchmarkError when no answer
        comes."""
        answer = self.caller.call(self.cases[case].requests[number])
        if answer.status != 200:
            return Sample(answer.milliseconds, 0, failed=True)
        return Sample(answer.milliseconds, _rows(answer.document()), failed=False)


def _rows(document: dict[str, Any]) -> int:
    """Count the users in a page, in a batch, or in an answer that is one user."""
    return len(document.get("items", document.get("users", [document])))


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("user_scale", options.seed)
    print(circumstances.line(), flush=True)
    with ExitStack() as stack:
        growths = _measure(*_towns(stack, options), options)
    promises = [promise for growth in growths for promise in growth.promises()]
    details = {"options": {**asdict(options), "json_path": None}, "cases": [asdict(growth) for growth in growths]}
    shown = _table(growths, options)
    return report.conclude(shown, promises, circumstances, json_path=options.json_path, details=details)


def _towns(stack: ExitStack, options: Options) -> tuple[Town, Town]:
    issuer = SessionIssuer.generate()
    environment = {**NOBODY_REFUSED, **issuer.environment}
    small, large = (stack.enter_context(deployed(_POSTGRES_SETTINGS, environment)) for _ in range(2))
    for deployment, users in ((small, SMALL_USERS), (large, options.users)):
        print(f"inserting {users} users …", flush=True)
        populate(deployment, users, seed=options.seed)
    prefixes = wide_prefixes(small)

    def open_town(deployment: Deployment) -> Town:
        key = deployment.run_python("-m", "benchmarks.seeding", "service", "admin").last_line
        server = stack.enter_context(comparison.web_server(deployment))
        caller = stack.enter_context(Caller(server.url))
        maker = CaseMaker(deployment, caller, issuer=issuer, key=key, seed=options.seed)
        return Town(caller, maker.cases(options.requests, prefixes))

    return open_town(small), open_town(large)


def _measure(small: Town, large: Town, options: Options) -> list[Growth]:
    """Send every request of every case to both deployments, once to warm up and once measured.

    A case asks for a user again only after all others: by then, what the service caches for two seconds has expired.
    """
    names = [case.name for case in small.cases]
    for town in (small, large):
        town.caller.reconnect()
    for name in ("warming up", "measuring"):
        print(f"{name}: {options.requests} requests of {len(names)} cases to each …", flush=True)
        samples: list[list[tuple[Sample, Sample]]] = [[] for _ in names]
        for number in range(options.requests):
            for case in range(len(names)):
                samples[case].append((small.ask(case, number), large.ask(case, number)))
    return [
        Growth(name, Timing.of([pair[0] for pair in pairs]), Timing.of([pair[1] for pair in pairs]))
        for name, pairs in zip(names, samples, strict=True)
    ]


def _table(growths: Sequence[Growth], options: Options) -> str:
    heading = ["p50 ms", f"of {SMALL_USERS}", "rows", f"of {options.users}", "rows", "growth"]
    rows = [
        [
            growth.case,
            f"{growth.small.p50_milliseconds:.2f}",
            f"{growth.small.rows:.1f}",
            f"{growth.large.p50_milliseconds:.2f}",
            f"{growth.large.rows:.1f}",
            f"{growth.ratio:.2f} x",
        ]
        for growth in growths
    ]
    return report.table([heading, *rows])
