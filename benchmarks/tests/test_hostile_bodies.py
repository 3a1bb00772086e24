"""A small run of the benchmark `hostile_bodies`, in which the service refuses the attacks, and the benchmark's limits:
breaking any one of them fails the run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import hostile_bodies
from benchmarks.hostile_bodies import Options, Watched
from benchmarks.report import passed

QUIET = Watched("quiet", requests=100, p99_milliseconds=2.0, slowest_milliseconds=4.0, grown_megabytes=0.0)
BODIES = replace(QUIET, name="bodies", p99_milliseconds=10.0, slowest_milliseconds=100.0, statuses=[401, 429])
QUERIES = replace(BODIES, name="queries", statuses=[414])
HANG_UPS = replace(QUIET, name="hang_ups", grown_megabytes=10.0, statuses=[0])
HEADERS = replace(QUIET, name="headers", statuses=[431])


@pytest.mark.serial
def test_small_run_refuses_every_stranger_and_crashes_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "result.json"

    hostile_bodies.run(Options(seconds=1, strangers=4, hang_ups=10, megabytes=1, seed=7, json_path=path))

    verdicts = {promise["id"]: promise["verdict"] for promise in json.loads(path.read_text())["promises"]}
    assert verdicts["hostile_bodies.bodies.let_in"] == "pass"
    assert verdicts["hostile_bodies.queries.let_in"] == "pass"
    assert verdicts["hostile_bodies.tracebacks"] == "pass"


def test_figures_within_the_bars_pass() -> None:
    assert passed(hostile_bodies.promises(QUIET, [BODIES, QUERIES, HANG_UPS, HEADERS], tracebacks=0))


@pytest.mark.parametrize(
    ("attack", "tracebacks"),
    [
        (replace(BODIES, p99_milliseconds=10.1), 0),
        (replace(BODIES, slowest_milliseconds=100.1), 0),
        (replace(BODIES, statuses=[401, 200]), 0),
        (replace(QUERIES, slowest_milliseconds=100.1), 0),
        (replace(QUERIES, statuses=[414, 200]), 0),
        (replace(BODIES, statuses=[401, 0]), 0),
        (replace(HANG_UPS, grown_megabytes=10.1), 0),
        (replace(HEADERS, statuses=[200]), 0),
        (HANG_UPS, 1),
    ],
)
def test_each_bar_that_is_missed_fails_the_run(attack: Watched, tracebacks: int) -> None:
    assert not passed(hostile_bodies.promises(QUIET, [attack], tracebacks=tracebacks))
