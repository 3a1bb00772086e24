"""The meter of the chaos run reads the count of interrupted integrations from a scrape, and tells when a scrape first
showed that the count had reached a number."""

from datetime import UTC, datetime, timedelta

import httpx

from benchmarks.chaos.meter import Meter, interrupted

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(seconds=1)
TEXT = """\
# TYPE user_management_connection_transitions_total counter
user_management_connection_transitions_total{provider="sandbox-strict",reason="refresh_interrupted",status="needs_reauth"} 2.0
user_management_connection_transitions_total{provider="sandbox-strict",reason="grant_refused",status="needs_reauth"} 5.0
user_management_connection_transitions_total{provider="sandbox-static",reason="none",status="active"} 7.0
user_management_connection_transitions_total{provider="elsewhere",reason="refresh_interrupted",status="needs_reauth"} 9.0
"""  # noqa: E501 - the format has no continuation lines


def meter() -> Meter:
    return Meter(httpx.AsyncClient(), [])


def test_interrupted_counts_the_interrupted_of_the_sandbox_alone() -> None:
    assert interrupted(TEXT) == {"strict": 2}


def test_meter_that_jumps_has_seen_all_in_between() -> None:
    watched = meter()
    watched.note({"strict": 1}, AT)
    watched.note({"strict": 3}, LATER)

    assert [watched.seen_at("strict", number) for number in (1, 2, 3)] == [AT, LATER, LATER]


def test_meter_that_has_not_counted_so_far_has_seen_nothing() -> None:
    watched = meter()
    watched.note({"strict": 1}, AT)

    assert watched.seen_at("strict", 2) is None
    assert watched.seen_at("grace", 1) is None
    assert watched.seen_at("strict", None) is None
