"""Runs the fuzz targets: on every change, each with its seeds and 300 generated inputs; every night, each for a minute
of fuzzing with coverage feedback."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.user_management.tests.fuzz.targets import PACKAGE, Target, target_names

REPOSITORY = Path(__file__).parents[4]
SECONDS = 60
EXPECTED_TARGETS = {"cursor", "jwt", "service_key", "strict_json", "webhook"}
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def _changed(seed: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for `seed` with one stretch of up to 8 bytes replaced."""
    places = st.integers(0, len(seed))
    return st.builds(
        lambda start, length, text: seed[:start] + text + seed[start + length :],
        places,
        st.integers(0, 8),
        st.binary(max_size=8),
    )


def _inputs(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=512), *(_changed(seed) for seed in seeds))


def test_targets_are_found() -> None:
    assert set(target_names()) >= EXPECTED_TARGETS


@pytest.mark.parametrize("name", target_names())
def test_target_survives_its_seeds(name: str) -> None:
    target = Target.load(name)

    for seed in (b"", *target.seeds):
        target.fuzz_one(seed)


@pytest.mark.parametrize("name", target_names())
def test_target_survives_generated_inputs(name: str) -> None:
    target = Target.load(name)

    @settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(_inputs(target.seeds))
    def survive(text: bytes) -> None:
        target.fuzz_one(text)

    survive()


@pytest.mark.nightly
@pytest.mark.parametrize("name", target_names())
def test_target_survives_a_minute_of_fuzzing(name: str, tmp_path: Path) -> None:
    assert importlib.util.find_spec("atheris") is not None, "fuzzing needs the package atheris, which is not installed"

    finished = subprocess.run(
        [sys.executable, "-m", PACKAGE, name, "--seconds", str(SECONDS), "--folder", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("COV")},
        timeout=SECONDS * 3,
    )

    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-6000:]
    executed = _EXECUTED.search(finished.stderr)
    assert executed is not None
    assert int(executed[1]) > 1000
