"""The verdict on kills recognises each way in which a service could fail, and the one loss that is excused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from benchmarks.chaos.connections import Connection, State
from benchmarks.chaos.ledger import Answer
from benchmarks.chaos.verdict import Evidence, judge
from benchmarks.chaos.witness import Call
from benchmarks.report import Verdict
from services.sandbox.providers import KINDS, Kind

KILLED_AT = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = Answer(200, refreshed=True, token="0" * 16, accepted=True)
REFUSED = Answer(409, code="needs_reauth")
ACTIVE = State("active", None, token_version=2, flagged_at=None)
FLAGGED = State("needs_reauth", "refresh_interrupted", token_version=1, flagged_at=KILLED_AT + timedelta(seconds=40))
STORED = Call("account-1", "a", "b", committed=True, at=KILLED_AT)
REFUSED_CALL = Call(None, "a", None, committed=False, at=KILLED_AT + timedelta(seconds=39))


def kept(kind: Kind) -> Evidence:
    """Return the evidence about an integration that works and whose one refresh is stored."""
    connection = Connection(UUID(int=1), "user_1", kind, "account-1", token_version=1)
    return Evidence(connection, KILLED_AT, GOOD, was_renewed=True, state=ACTIVE, calls=[STORED])


def lost(kind: Kind, state: State = FLAGGED, calls: tuple[Call, ...] = (STORED, REFUSED_CALL)) -> Evidence:
    """Return the evidence about an integration that does not work, with this row and these refresh calls."""
    metered_at = KILLED_AT + timedelta(seconds=45)
    return replace(kept(kind), answer=REFUSED, state=state, calls=calls, metered_at=metered_at)


def broken(*evidence: Evidence, kills: int = 100) -> set[str]:
    """Return the ids, without `R1.`, of the promises that the verdict calls broken; 100 kills were planned."""
    promises = judge("R1", evidence, kills=kills, planned=100, per_point={})
    return {promise.id.removeprefix("R1.") for promise in promises if promise.verdict is Verdict.FAIL}


def test_verdict_when_everything_works_breaks_no_promise() -> None:
    assert broken(*map(kept, KINDS)) == set()


def test_verdict_on_a_strict_loss_with_the_call_out_that_is_flagged_in_time_breaks_no_promise() -> None:
    assert broken(lost("strict")) == set()


@pytest.mark.parametrize("kind", ["static", "overlap", "grace"])
def test_verdict_on_the_same_loss_of_another_kind_breaks_its_promise(kind: Kind) -> None:
    assert broken(lost(kind)) == {"static_overlap_grace_lost"}


def test_verdict_on_a_strict_loss_without_a_call_out_has_no_excuse() -> None:
    assert broken(lost("strict", calls=(REFUSED_CALL,))) == {"strict_lost_without_excuse"}


def test_verdict_on_a_loss_with_another_reason_calls_it_silent() -> None:
    other = replace(FLAGGED, reason="grant_refused")

    assert broken(lost("strict", other)) == {"lost_in_silence"}


def test_verdict_on_a_loss_without_an_audit_row_calls_it_silent() -> None:
    assert broken(lost("strict", replace(FLAGGED, flagged_at=None))) == {"lost_in_silence"}


def test_verdict_on_a_loss_that_is_flagged_after_a_minute_calls_it_late() -> None:
    late = replace(FLAGGED, flagged_at=KILLED_AT + timedelta(seconds=61))

    assert broken(lost("strict", late)) == {"flagged_after"}


def test_verdict_on_a_connection_that_a_later_kill_met_counts_from_the_call_that_was_lost() -> None:
    met = replace(STORED, at=KILLED_AT + timedelta(minutes=10))
    in_time = replace(FLAGGED, flagged_at=met.at + timedelta(seconds=59))
    late = replace(FLAGGED, flagged_at=met.at + timedelta(seconds=61))
    metered_at = met.at + timedelta(seconds=60)

    assert broken(replace(lost("strict", in_time, (met, REFUSED_CALL)), metered_at=metered_at)) == set()
    assert broken(replace(lost("strict", late, (met, REFUSED_CALL)), metered_at=metered_at)) == {"flagged_after"}


def test_verdict_on_a_connection_that_is_shown_as_working_and_is_not_calls_it_left_active() -> None:
    assert broken(lost("strict", replace(ACTIVE, token_version=1))) == {"lost_in_silence", "left_active"}


@pytest.mark.parametrize("answer", [replace(GOOD, accepted=False), Answer(503), Answer(None)])
def test_verdict_on_an_answer_that_is_no_good_token_calls_it_lost(answer: Answer) -> None:
    assert "static_overlap_grace_lost" in broken(replace(kept("static"), answer=answer))


def test_verdict_on_a_good_token_that_is_the_old_one_calls_it_lost() -> None:
    assert "static_overlap_grace_lost" in broken(replace(kept("static"), was_renewed=False))


def test_verdict_on_a_new_token_that_somebody_else_had_fetched_calls_it_kept() -> None:
    assert broken(replace(kept("static"), answer=replace(GOOD, refreshed=False))) == set()


def test_verdict_on_kills_that_did_not_happen_breaks_their_promise() -> None:
    assert broken(kept("static"), kills=98) == {"kills"}


def test_verdict_on_an_interrupted_connection_that_no_metric_shows_calls_it_unmetered() -> None:
    assert broken(replace(lost("strict"), metered_at=None)) == {"unmetered"}


def test_verdict_on_an_interrupted_connection_that_a_metric_shows_too_late_calls_it_unmetered() -> None:
    assert broken(replace(lost("strict"), metered_at=KILLED_AT + timedelta(seconds=61))) == {"unmetered"}
