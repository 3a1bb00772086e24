"""The verdict on wrong clocks recognises expiries that were stored by a clock that is ahead or behind, refreshes that
are too many, and refreshes by right clocks, which prove nothing."""

from uuid import UUID

from benchmarks.chaos.clocks import REFRESHES, Case, judge
from benchmarks.chaos.connections import Connection
from benchmarks.chaos.ledger import Answer
from benchmarks.report import Verdict

GOOD = Answer(200, token="0" * 16, accepted=True)
EXPIRED = Answer(200, token="0" * 16, accepted=False)


def case(*answers: Answer, by_wrong_clock: bool = True) -> Case:
    """Return a case of one integration with these answers."""
    connection = Connection(UUID(int=1), "user_1", "static", "account-1", token_version=1)
    return Case(connection, by_wrong_clock, list(answers))


def broken(*cases: Case, refreshes: int = REFRESHES) -> set[str]:
    """Return the ids of the promises that the verdict calls broken, if each case had `refreshes` refresh calls."""
    promises = judge(cases, [refreshes] * len(cases))
    return {promise.id for promise in promises if promise.verdict is Verdict.FAIL}


def test_verdict_on_expiries_by_the_database_breaks_no_promise() -> None:
    assert broken(case(GOOD, GOOD)) == set()
    assert broken(case(GOOD, GOOD), refreshes=REFRESHES + 1) == set()


def test_verdict_on_an_expiry_by_a_clock_that_is_ahead_finds_an_expired_token() -> None:
    assert broken(case(GOOD, EXPIRED), refreshes=1) == {"R8.expired"}


def test_verdict_on_an_expiry_by_a_clock_that_is_behind_finds_readers_without_a_token() -> None:
    assert broken(case(GOOD, Answer(503, code="provider_unavailable"))) == {"R8.unserved"}


def test_verdict_on_a_refresh_per_reader_calls_it_too_many() -> None:
    assert broken(case(GOOD, GOOD), refreshes=9) == {"R8.extra"}


def test_verdict_on_refreshes_by_right_clocks_says_that_nothing_was_shown() -> None:
    assert broken(case(GOOD), case(GOOD, by_wrong_clock=False)) == {"R8.wrong_clocks"}
