"""Times token reads, lists of a user's integrations, and queries of periodic jobs in a deployment of a thousand
integrations and in one of a million (by default), in turn.

Both deployments run at the same time. A time that grows with the number of integrations belongs to a query that no
index serves.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import comparison, report
from benchmarks.connection_population import TABLES, fill
from benchmarks.connection_scale_cases import Case, CaseMaker, Respondents, Sample
from benchmarks.connection_scale_jobs import JobCaller
from benchmarks.deployment import NOBODY_REFUSED, Deployment, deployed
from benchmarks.report import Circumstances, Promise
from benchmarks.sequential import Caller
from benchmarks.sessions import SessionIssuer

SMALL_CONNECTIONS: Final = 1000
_POSTGRES_SETTINGS: Final = {"max_wal_size": "16GB", "checkpoint_timeout": "1h"}
"""Settings that keep Postgres from a checkpoint while a million rows are inserted and while requests are measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    connections: int
    requests: int
    """Measured requests per case and deployment; as many requests about other users warm up before them."""
    seed: int
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Timing:
    """The median time of one case in one deployment, and the number of unexpected answers."""

    p50_milliseconds: float
    failures: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Timing":
        """Summarise the samples of one case."""
        return cls(
            statistics.median(sample.milliseconds for sample in samples), sum(sample.failed for sample in samples)
        )


@dataclass(frozen=True, slots=True)
class Growth:
    """The timings of one case in both deployments."""

    case: str
    maximum_ratio: float
    small: Timing
    large: Timing

    @property
    def ratio(self) -> float:
        """The median time in the large deployment, divided by that in the small one."""
        return self.large.p50_milliseconds / self.small.p50_milliseconds

    def promises(self) -> list[Promise]:
        """Return two promises: the growth is within its limit, and every answer was an expected one."""
        name = f"connection_scale[{self.case}]"
        failures = {"small": self.small.failures, "large": self.large.failures}
        return [
            Promise.at_most(f"{name}.growth", "x the small p50", self.ratio, self.maximum_ratio),
            Promise.at_most(f"{name}.failures", "unexpected answers", sum(failures.values()), 0, counts=failures),
        ]


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("connection_scale", options.seed)
    print(circumstances.line(), flush=True)
    with ExitStack() as stack:
        growths = _measure(*_deployments(stack, options), options)
    promises = [promise for growth in growths for promise in growth.promises()]
    details = {"options": {**asdict(options), "json_path": None}, "cases": [asdict(growth) for growth in growths]}
    shown = _table(growths, options)
    return report.conclude(shown, promises, circumstances, json_path=options.json_path, details=details)


def _deployments(stack: ExitStack, options: Options) -> tuple[list[Case], list[Case]]:
    """Start both deployments and return the cases of the small one and of the large one."""
    issuer = SessionIssuer.generate()
    environment = {**NOBODY_REFUSED, **issuer.environment}
    small, large = (stack.enter_context(deployed(_POSTGRES_SETTINGS, environment)) for _ in range(2))

    def cases(deployment: Deployment, connections: int) -> list[Case]:
        print(f"inserting {connections} integrations …", flush=True)
        respondents, key = _populate(deployment, connections, options)
        server = stack.enter_context(comparison.web_server(deployment))
        caller, jobs = stack.enter_context(Caller(server.url)), stack.enter_context(JobCaller(deployment))
        return CaseMaker(respondents, caller, jobs, key=key).cases(issuer)

    return cases(small, SMALL_CONNECTIONS), cases(large, options.connections)


def _populate(deployment: Deployment, connections: int, options: Options) -> tuple[Respondents, str]:
    """Fill a deployment; return the users to ask about and the key of a service that may read their tokens. Raises
    BenchmarkError."""
    seeded = deployment.run_python("-m", "benchmarks.seeding", "connected", "0", str(options.seed))
    fill(deployment, connections, seed=options.seed)
    respondents = Respondents(deployment, count=2 * options.requests, seed=options.seed)
    respondents.give_tokens()
    # Otherwise autovacuum and the checkpointer would do this in the middle of the run.
    deployment.query(f"VACUUM ANALYZE {TABLES}")
    deployment.query("CHECKPOINT")
    return respondents, seeded.last_line


def _measure(small: Sequence[Case], large: Sequence[Case], options: Options) -> list[Growth]:
    """Ask every question of every case in both deployments: the first half warms up, the second half is measured.

    Apart from the batches, no case asks about a user twice if there are enough users: the user's rows would be in
    memory the second time, which hides a part of the growth.
    """
    pairs = list(zip(small, large, strict=True))
    samples: list[list[tuple[Sample, Sample]]] = [[] for _ in pairs]
    for number in range(2 * options.requests):
        if number == options.requests:
            print(f"measuring: {options.requests} requests of {len(pairs)} cases to each …", flush=True)
        for answers, (one, other) in zip(samples, pairs, strict=True):
            answers.append(_ask_both(one, other, number))
    return [
        Growth(
            one.name,
            one.maximum_ratio,
            Timing.of([first for first, _ in answers[options.requests :]]),
            Timing.of([second for _, second in answers[options.requests :]]),
        )
        for answers, (one, _) in zip(samples, pairs, strict=True)
    ]


def _ask_both(small: Case, large: Case, number: int) -> tuple[Sample, Sample]:
    """Ask one question in both deployments, and alternate which one comes first.

    The second one asked finds the processor's caches as the first one left them; alternating evens that out.
    """
    if number % 2 == 0:
        return small.ask(number), large.ask(number)
    second = large.ask(number)
    return small.ask(number), second


def _table(growths: Sequence[Growth], options: Options) -> str:
    heading = ["p50 ms", f"of {SMALL_CONNECTIONS}", f"of {options.connections}", "growth"]
    rows = [
        [
            growth.case,
            f"{growth.small.p50_milliseconds:.2f}",
            f"{growth.large.p50_milliseconds:.2f}",
            f"{growth.ratio:.2f} x",
        ]
        for growth in growths
    ]
    return report.table([heading, *rows])
