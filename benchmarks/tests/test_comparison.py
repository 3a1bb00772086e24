"""The figures and verdicts that follow from the measurements of the service and of its floor."""

import pytest

from benchmarks.comparison import Comparison, Measurement, Subject
from benchmarks.report import Circumstances, Verdict
from benchmarks.wrk import LoadResult


def subject(*rates: int, failures: int = 0, p99: float = 20.0) -> Subject[Measurement]:
    """Return the measurements of a server: for each of `rates` one round of 1 s, with 0.5 s of CPU time; each round has
    `failures` and `p99` milliseconds."""
    loads = [LoadResult(rate, 1.0, p50_milliseconds=10.0, p99_milliseconds=p99, failures=failures) for rate in rates]
    return Subject(tuple(Measurement(load, cpu_seconds=0.5) for load in loads), resident_megabytes=100.0)


def circumstances(load_average: float) -> Circumstances:
    """Return the circumstances of a run that began at this load average."""
    return Circumstances("test", seed=1, git="unknown", started_at="", load_average=load_average)


def test_ratio_is_median_of_neighbouring_rounds() -> None:
    found = Comparison("test", subject(100, 300, 50), subject(1000, 1000, 100))

    assert found.ratio_percent == pytest.approx(30.0)


def test_cpu_is_over_all_requests() -> None:
    assert subject(100, 300).cpu_microseconds == pytest.approx(2500.0)


def test_ratio_below_minimum_fails() -> None:
    found = Comparison("test", subject(440), subject(1000))

    kept = {promise.id: promise.verdict for promise in found.promises(circumstances(0.1), minimum_ratio_percent=45)}

    assert kept["test.ratio"] is Verdict.FAIL
    assert kept["test.memory"] is Verdict.PASS


def test_failed_answer_of_either_server_fails() -> None:
    found = Comparison("test", subject(500), subject(1000, failures=1))

    kept = {promise.id: promise.verdict for promise in found.promises(circumstances(0.1), minimum_ratio_percent=45)}

    assert kept["test.failures"] is Verdict.FAIL


@pytest.mark.parametrize(("load_average", "verdict"), [(0.5, Verdict.FAIL), (2.0, Verdict.NOT_JUDGED)])
def test_slow_answers_are_judged_on_an_idle_machine_alone(load_average: float, verdict: Verdict) -> None:
    found = Comparison("test", subject(500, p99=151.0), subject(1000))

    promises = found.promises(circumstances(load_average), minimum_ratio_percent=45)

    assert next(promise for promise in promises if promise.id == "test.p99").verdict is verdict
