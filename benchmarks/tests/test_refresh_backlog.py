"""A small run of the benchmark `refresh_backlog`, with a real worker and a provider that accepts each refresh token
once."""

import json
from pathlib import Path

import pytest

from benchmarks import refresh_backlog

pytestmark = pytest.mark.serial


@pytest.mark.nightly
def test_refresh_backlog_in_small_calls_the_provider_once_per_connection(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    refresh_backlog.run(refresh_backlog.Options(connections=30, spread_seconds=0, seed=7, json_path=result))

    promises = {promise["id"]: promise["verdict"] for promise in json.loads(result.read_text())["promises"]}
    counted = [f"refresh_backlog.{name}" for name in ("renewed", "calls", "twice")]
    assert {name: promises[name] for name in counted} == dict.fromkeys(counted, "pass")
