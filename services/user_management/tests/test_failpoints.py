"""Tests of failpoints, at which a test can make the code fail: each occurs once in the code, is exercised by a crash
test, fires at the pass it is told, and does nothing outside the test environment."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.kills import KILL_POINTS
from services.user_management.container import Container
from services.user_management.core.failpoints import Failpoint, FailpointReached, arm, failpoint
from services.user_management.exceptions import StartupError
from services.user_management.settings import Environment, Settings
from services.user_management.settings.groups import OAuthGroup, ProvidersGroup
from services.user_management.tests.races.test_rotation_kills import EXERCISED as EXERCISED_BY_ROTATIONS
from services.user_management.tests.races.test_webhook_kills import EVENT_IS_KEPT

pytestmark = pytest.mark.slow

SERVICE = Path(__file__).resolve().parents[1]
REPOSITORY = SERVICE.parents[1]
ARMED = f"{Failpoint.WEBHOOK_STORED}:raise"
UNUSABLE = [
    "webhook.stored",
    "webhook.stored:",
    ":kill",
    "nowhere:kill",
    "webhook.stored:explode",
    "webhook.stored:kill:0",
]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm(None)


def calls_in_the_code() -> list[str]:
    """Return the names of the members of `Failpoint` that the service, without its tests, gives to `failpoint(…)`."""
    calls = []
    for path in sorted(SERVICE.rglob("*.py")):
        if "tests" in path.relative_to(SERVICE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (argument,) = node.args
                assert isinstance(argument, ast.Attribute), f"{path}:{node.lineno} does not name its failpoint"
                calls.append(argument.attr)
    return calls


def reaches(point: Failpoint, passes: int) -> list[int]:
    """Pass the failpoint `passes` times, and return the numbers of the passes at which it fired."""
    fired = []
    for number in range(1, passes + 1):
        try:
            failpoint(point)
        except FailpointReached:
            fired.append(number)
    return fired


def test_failpoints_of_the_catalogue_are_in_the_code_once_each() -> None:
    assert sorted(calls_in_the_code()) == sorted(point.name for point in Failpoint)


def test_failpoints_of_the_catalogue_are_exercised_by_the_crash_tests() -> None:
    assert {*EVENT_IS_KEPT, *EXERCISED_BY_ROTATIONS, *KILL_POINTS} == set(Failpoint)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_failpoint_fires_at_its_pass_and_at_no_other(number: int) -> None:
    arm(f"{ARMED}:{number}")

    assert reaches(Failpoint.WEBHOOK_STORED, passes=7) == [number]
    assert reaches(Failpoint.WEBHOOK_APPLIED, passes=7) == []


def test_failpoint_without_a_pass_fires_at_the_first() -> None:
    arm(ARMED)

    assert reaches(Failpoint.WEBHOOK_STORED, passes=3) == [1]


@pytest.mark.parametrize("specification", UNUSABLE)
def test_failpoint_that_does_not_exist_is_a_startup_error(specification: str) -> None:
    with pytest.raises(StartupError, match=r"^FAILPOINT: "):
        arm(specification)


@pytest.mark.parametrize("environment", [Environment.PRODUCTION, Environment.DEVELOPMENT])
@pytest.mark.parametrize("specification", [ARMED, "nowhere:kill"])
def test_failpoint_outside_the_test_environment_is_ignored(
    settings: Settings, environment: Environment, specification: str
) -> None:
    # The sandbox's providers are not https, which production refuses.
    without_sandbox = {"providers": ProvidersGroup(), "oauth": OAuthGroup()}
    update = {"environment": environment, "failpoint": specification, **without_sandbox}
    Container(settings.model_copy(update=update))

    assert reaches(Failpoint.WEBHOOK_STORED, passes=3) == []


def test_failpoint_in_the_test_environment_is_armed_by_the_container(settings: Settings) -> None:
    Container(settings.model_copy(update={"environment": Environment.TEST, "failpoint": ARMED}))

    assert reaches(Failpoint.WEBHOOK_STORED, passes=3) == [1]


@pytest.mark.parametrize("specification", ["nowhere:kill", "webhook.stored:explode"])
def test_process_with_an_unknown_failpoint_ends_with_2_and_one_line(specification: str) -> None:
    environment = {**os.environ, "ENVIRONMENT": "test", "FAILPOINT": specification}

    ended = subprocess.run(
        [sys.executable, "-m", "services.user_management.main"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("user-management: FAILPOINT: there is no ")
    assert ended.stderr.count("\n") == 1
