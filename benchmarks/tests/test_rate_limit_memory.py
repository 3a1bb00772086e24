"""A small run of the benchmark `rate_limit_memory`, which measures a process without Redis, one with Redis, and the
keys left in Redis; and the benchmark's limits: breaking any one of them fails the run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import rate_limit_memory
from benchmarks.rate_limit_memory import Options, Spent, Stored
from benchmarks.report import passed

ALONE = Spent(keys=1000, grown_megabytes=40.0, microseconds=10.0, degraded=True)
SHARED = Spent(keys=1000, grown_megabytes=1.0, microseconds=100.0, degraded=False)
STORED = Stored(keys=1000, without_expiry=0, used_bytes=150_000)


@pytest.mark.serial
def test_small_run_meets_every_bar_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"

    kept = rate_limit_memory.run(Options(keys=1000, redis_keys=1000, json_path=path))

    assert kept, capsys.readouterr().out
    result = json.loads(path.read_text())
    assert (result["alone"]["degraded"], result["shared"]["degraded"]) == (True, False)
    assert result["stored"]["keys"] >= 1000
    assert result["stored"]["without_expiry"] == 0


def test_figures_within_the_bars_pass() -> None:
    assert passed(rate_limit_memory.promises(ALONE, SHARED, STORED))


@pytest.mark.parametrize(
    ("alone", "shared", "stored"),
    [
        (replace(ALONE, grown_megabytes=50.1), SHARED, STORED),
        (ALONE, replace(SHARED, grown_megabytes=50.1), STORED),
        (replace(ALONE, degraded=False), SHARED, STORED),
        (ALONE, replace(SHARED, degraded=True), STORED),
        (ALONE, SHARED, replace(STORED, keys=999)),
        (ALONE, SHARED, replace(STORED, without_expiry=1)),
    ],
)
def test_each_bar_that_is_missed_fails_the_run(alone: Spent, shared: Spent, stored: Stored) -> None:
    assert not passed(rate_limit_memory.promises(alone, shared, stored))
