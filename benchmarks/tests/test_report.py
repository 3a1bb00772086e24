"""The rules by which a promise of a benchmark counts as kept, broken or not judged, and a run as passed."""

import pytest

from benchmarks.report import Promise, Verdict, passed


@pytest.mark.parametrize(("figure", "verdict"), [(45.0, Verdict.PASS), (44.9, Verdict.FAIL)])
def test_promise_at_least_is_kept_from_the_limit_on(figure: float, verdict: Verdict) -> None:
    assert Promise.at_least("ratio", "%", figure, 45).verdict is verdict


@pytest.mark.parametrize(("figure", "verdict"), [(1.5, Verdict.PASS), (1.51, Verdict.FAIL)])
def test_promise_at_most_is_kept_up_to_the_limit(figure: float, verdict: Verdict) -> None:
    assert Promise.at_most("growth", "x", figure, 1.5).verdict is verdict


def test_promise_on_a_busy_machine_is_not_judged_and_breaks_nothing() -> None:
    slow = Promise.at_most("p99", "ms", 900, 150, judged=False)
    late = Promise.at_least("rate", "%", 20, 99, judged=False)

    assert {slow.verdict, late.verdict} == {Verdict.NOT_JUDGED}
    assert passed([slow, late])


def test_one_broken_promise_breaks_the_run() -> None:
    assert not passed([Promise.at_most("a", "x", 1, 1), Promise.at_most("b", "x", 2, 1)])
