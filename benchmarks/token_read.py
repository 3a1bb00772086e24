"""Measures `POST /internal/tokens/get` for tokens that need no refresh: the service against its floor (a bare server
that does the least work that such a read needs), with commits that wait for the disk and with commits that do not."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import comparison, wrk
from benchmarks.comparison import Comparison, Measurement, Options
from benchmarks.deployment import NOBODY_REFUSED, Deployment, deployed
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances, Promise
from benchmarks.seeding import PROVIDER, SCOPE, seeded_users
from benchmarks.token_read_floor import SERVICE_KEY_VARIABLE

PATH: Final = "/internal/tokens/get"
_SETTLING_SECONDS: Final = 0.2
MODES: Final[Mapping[str, Mapping[str, str]]] = {
    "fsync on": {},
    "synchronous_commit off": {"synchronous_commit": "off"},
}
"""Modes with their overrides of postgresql.conf: commits wait for the disk, or do not."""
MINIMUM_RATIO_PERCENT: Final[Mapping[str, float]] = {"fsync on": 60.0, "synchronous_commit off": 40.0}
_COUNT: Final = "SELECT count(*) FROM token_reads WHERE outcome = 'granted'"


@dataclass(frozen=True, slots=True)
class RecordedMeasurement(Measurement):
    """One run of wrk against one server, with the number of records that it left behind."""

    recorded: int
    """Number of rows with the outcome `granted` that appeared in token_reads."""

    @property
    def unaccounted(self) -> int:
        """Number of reads that were recorded but not answered before wrk ended; negative if answers lack a record."""
        return self.recorded - self.load.requests

    def line(self) -> str:
        """Return the measurement as one line for a person."""
        load = self.load
        return f"{load.rate:.0f}/s, {load.requests} answered, {self.recorded} recorded, {load.failures} failed"


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    wrk.require()
    circumstances = Circumstances.of("token_read", options.seed)
    print(circumstances.line(), flush=True)
    comparisons = [_compare(mode, options) for mode in MODES]
    promises = [
        promise
        for mode, found in zip(MODES, comparisons, strict=True)
        for promise in _promises(found, options, circumstances, MINIMUM_RATIO_PERCENT[mode])
    ]
    return comparison.conclude(comparisons, promises, options, circumstances)


def _compare(mode: str, options: Options) -> Comparison[RecordedMeasurement]:
    with deployed(MODES[mode], NOBODY_REFUSED) as deployment:
        print(f"{mode}:", flush=True)
        script, servers = prepare(deployment, options)

        def measure(server: ServerUnderTest, load: wrk.Load) -> RecordedMeasurement:
            return _measure(deployment, server, load)

        return comparison.compare(f"token_read[{mode}]", servers, script, options, measure_with=measure)


def prepare(deployment: Deployment, options: Options) -> tuple[Path, tuple[ServerUnderTest, ServerUnderTest]]:
    """Seed the deployment; return wrk's script, and the service and its floor, not yet started. Raises BenchmarkError,
    DevstackError."""
    print(f"seeding {options.users} users …", flush=True)
    seeded = deployment.run_python("-m", "benchmarks.seeding", "connected", str(options.users), str(options.seed))
    deployment.query("ANALYZE")  # else autovacuum does it in mid-run, and plans change
    key = seeded.last_line
    script = _write_script(deployment.folder / "token_read.lua", key, options)
    floor = comparison.floor_server(deployment, "benchmarks.token_read_floor", **{SERVICE_KEY_VARIABLE: key})
    return script, (comparison.web_server(deployment), floor)


def _write_script(path: Path, key: str, options: Options) -> Path:
    bodies = [
        json.dumps({"user_id": user.id, "provider": PROVIDER, "scopes": [SCOPE]})
        for user in seeded_users(options.users)
    ]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    wrk.write_script(path, wrk.Posts(PATH, headers, bodies), seed=options.seed)
    return path


def _measure(deployment: Deployment, server: ServerUnderTest, load: wrk.Load) -> RecordedMeasurement:
    recorded = _settled_count(deployment)
    measured = comparison.measure(server, load)
    return RecordedMeasurement(
        load=measured.load, cpu_seconds=measured.cpu_seconds, recorded=_settled_count(deployment) - recorded
    )


def _settled_count(deployment: Deployment) -> int:
    """Return the number of recorded reads once it stops growing.

    When wrk ends, one request per connection is still under way.
    """
    count = -1
    while (now := int(deployment.query(_COUNT))) != count:
        count = now
        time.sleep(_SETTLING_SECONDS)
    return count


def _promises(
    found: Comparison[RecordedMeasurement], options: Options, circumstances: Circumstances, minimum: float
) -> list[Promise]:
    """Return the promises of every comparison, and two more: every answer has a record, and the records without an
    answer are no more than the connections, each of which had one request under way when wrk ended."""
    rounds = [*found.service.rounds, *found.floor.rounds]
    counts = {"answered": sum(r.load.requests for r in rounds), "recorded": sum(r.recorded for r in rounds)}
    lost = max(0, -min(measured.unaccounted for measured in rounds))
    surplus = max(0, *(measured.unaccounted for measured in rounds))
    name, connections = found.name, options.connections
    return [
        *found.promises(circumstances, minimum_ratio_percent=minimum),
        Promise.at_most(f"{name}.unrecorded", "answers without a record", lost, 0, counts=counts),
        Promise.at_most(f"{name}.in_flight", "records of unread answers", surplus, connections, counts=counts),
    ]
