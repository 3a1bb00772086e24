"""Tests that a process's wall clock can be set wrong in the test environment only, that durations are measured right
all the same, and that the service's modules, with few exceptions, read the time from that clock."""

import ast
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from services.user_management.container import Container
from services.user_management.core.clock import OffsetClock, SystemClock
from services.user_management.settings import Environment, Settings
from services.user_management.settings.groups import OAuthGroup, ProvidersGroup

PACKAGE: Final = Path(__file__).parents[1]
READS_OF_THE_WALL: Final = {"datetime.now", "datetime.utcnow", "datetime.today", "time.time", "time.time_ns"}
MAY_READ_IT: Final = {
    "core/clock.py": "it is the clock",
    "core/ids.py": "ids sort by when they were made; nothing is decided by them",
    "logging_config.py": "when a line was written",
    "middleware/problems.py": "when a problem was answered",
}


def readers_of_the_wall() -> Iterator[str]:
    """Yield the paths of the service's modules, without tests and migrations, that ask the machine for the time of
    day."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "tests" in path.relative_to(PACKAGE).parts or "alembic" in path.relative_to(PACKAGE).parts:
            continue
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(ast.unparse(function) in READS_OF_THE_WALL for function in calls):
            yield str(path.relative_to(PACKAGE))


def offset_of(container: Container) -> timedelta:
    """Return by how much the container's clock is ahead of the machine's, to the second."""
    difference = container.resources.clock.now() - SystemClock().now()
    return timedelta(seconds=round(difference.total_seconds()))


@pytest.mark.parametrize("seconds", [-600.0, 600.0])
def test_clock_in_the_test_environment_is_wrong_by_the_setting(settings: Settings, seconds: float) -> None:
    wrong = Container(settings.model_copy(update={"clock_offset_seconds": seconds}))

    assert offset_of(wrong) == timedelta(seconds=seconds)


@pytest.mark.parametrize("environment", [Environment.PRODUCTION, Environment.DEVELOPMENT])
def test_clock_outside_the_test_environment_ignores_the_setting(settings: Settings, environment: Environment) -> None:
    # The sandbox's providers are not https, which production refuses.
    without_sandbox = {"providers": ProvidersGroup(), "oauth": OAuthGroup()}
    update = {"environment": environment, "clock_offset_seconds": 600.0, **without_sandbox}

    assert offset_of(Container(settings.model_copy(update=update))) == timedelta()


def test_clock_that_is_wrong_measures_durations_all_the_same() -> None:
    clock = SystemClock()

    before, during, after = clock.monotonic(), OffsetClock(clock, 600).monotonic(), clock.monotonic()

    assert before <= during <= after


@pytest.mark.slow
def test_wall_clock_is_read_by_nobody_else() -> None:
    assert set(readers_of_the_wall()) == set(MAY_READ_IT)
