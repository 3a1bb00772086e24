"""Small but complete runs of six benchmarks: real servers and real load. Measured times are not judged.

Those that take long, or need wrk, which the requirements do not install, are run by `./test nightly` only.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import connection_scale, profile_read, token_load, token_read, user_scale, webhook_burst
from benchmarks.comparison import Options
from benchmarks.report import Circumstances

pytestmark = pytest.mark.serial


def verdicts(path: Path) -> dict[str, str]:
    """Return the verdicts of the result file by promise id, without those that depend on the speed of the machine."""
    document: dict[str, Any] = json.loads(path.read_text())
    timed = ("ratio", "growth", "p99", "slowest", "rate")
    found = {promise["id"]: promise["verdict"] for promise in document["promises"]}
    return {name: verdict for name, verdict in found.items() if name.rpartition(".")[2] not in timed}


def options(path: Path) -> Options:
    """Return options for one round of one second with 20 users and `path` as the result file."""
    return Options(seconds=1, rounds=1, connections=4, users=20, seed=7, json_path=path)


@pytest.mark.nightly
def test_profile_read_in_small_answers_everything(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    profile_read.run(options(result))

    assert verdicts(result) == {"profile_read.memory": "pass", "profile_read.failures": "pass"}


@pytest.mark.nightly
def test_token_read_in_small_records_every_answer(tmp_path: Path) -> None:
    chosen = options(tmp_path / "unused.json")

    found = token_read._compare("fsync on", chosen)

    promises = token_read._promises(found, chosen, Circumstances.of("token_read", chosen.seed), minimum=60)
    kept = {promise.id: promise.verdict for promise in promises}
    names = [f"token_read[fsync on].{name}" for name in ("memory", "failures", "unrecorded", "in_flight")]
    assert [kept[name] for name in names] == ["pass"] * 4


@pytest.mark.nightly
def test_user_scale_in_small_finds_users_in_every_case(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    user_scale.run(user_scale.Options(users=2000, requests=3, seed=7, json_path=result))

    kept = verdicts(result)
    assert len(kept) == 2 * 9
    assert set(kept.values()) == {"pass"}


@pytest.mark.nightly
def test_connection_scale_in_small_gets_what_it_asks_for_in_every_case(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    connection_scale.run(connection_scale.Options(connections=1500, requests=3, seed=7, json_path=result))

    kept = verdicts(result)
    assert len(kept) == 8
    assert set(kept.values()) == {"pass"}


@pytest.mark.nightly
def test_token_load_in_small_records_every_read_once(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    token_load.run(token_load.Options(seconds=2, rate=50, users=20, seed=7, json_path=result))

    names = [f"token_load.{name}" for name in ("failures", "refused", "unrecorded", "differing", "memory")]
    assert verdicts(result) == dict.fromkeys(names, "pass")


def test_webhook_burst_in_small_ends_as_the_ledger_says(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    webhook_burst.run(webhook_burst.Options(messages=50, rate=50, connections=4, seed=7, json_path=result))

    names = [f"webhook_burst.{name}" for name in ("answered", "applied", "failed", "differences")]
    assert verdicts(result) == dict.fromkeys(names, "pass")
