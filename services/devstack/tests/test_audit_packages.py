"""The verdict on pip-audit's answers: clean, failed, or not judged because the vulnerability service cannot be asked;
and how long an accepted vulnerability passes."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.devstack import audit_packages
from services.devstack.audit_packages import ACCEPTED, Accepted, Answer, Outcome, Verdict, judge

CANARY = Path("canary.txt")
PINNED = [Path("requirements.txt")]
TODAY = date(2026, 11, 20)

ADVISORY = {"id": "PYSEC-1", "fix_versions": ["1.24.2"], "aliases": ["CVE-1"]}
VULNERABLE = {"name": "urllib3", "version": "1.24.1", "vulns": [ADVISORY]}
SOUND = {"name": "six", "version": "1.17.0", "vulns": []}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI and could not be audited: six (1.17.0)"}

# The last lines that pip-audit wrote without a name server, behind a firewall, at a 503, and when it is not installed.
UNREACHABLE = "Traceback …\nrequests.exceptions.ConnectionError: Failed to resolve 'pypi.org'"
BLOCKED = "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service with `-s SERVICE`"
OUTAGE = "requests.exceptions.HTTPError: 503\nTraceback …\npip_audit._service.interface.ServiceError"
BROKEN = "/usr/bin/python: No module named pip_audit"


def _report(*dependencies: dict[str, Any]) -> Answer:
    return Answer.read(json.dumps({"dependencies": list(dependencies), "fixes": []}), "WARNING: hash your pins")


def _nothing(errors: str) -> Answer:
    return Answer.read("", errors)


def _judge(*, canary: Answer, pinned: Answer) -> Verdict:
    def audit(requirements: Sequence[Path]) -> Answer:
        return canary if list(requirements) == [CANARY] else pinned

    return judge(audit, CANARY, PINNED, today=TODAY)


def test_packages_without_a_known_vulnerability_are_clean() -> None:
    verdict = _judge(canary=_report(VULNERABLE), pinned=_report(SOUND))

    assert verdict == Verdict(Outcome.CLEAN)


def test_package_with_an_advisory_fails_and_names_the_way_out() -> None:
    verdict = _judge(canary=_report(VULNERABLE), pinned=_report(SOUND, VULNERABLE))

    assert verdict == Verdict(Outcome.FAILED, ["urllib3 1.24.1: PYSEC-1, fixed in 1.24.2"])


def test_package_that_its_index_does_not_have_fails() -> None:
    verdict = _judge(canary=_report(VULNERABLE), pinned=_report(SKIPPED))

    assert verdict == Verdict(Outcome.FAILED, [SKIPPED["skip_reason"]])


@pytest.mark.parametrize("errors", [UNREACHABLE, BLOCKED, OUTAGE])
def test_service_that_cannot_be_asked_judges_nothing(errors: str) -> None:
    at_once = _judge(canary=_nothing(errors), pinned=_report(SOUND))
    later = _judge(canary=_report(VULNERABLE), pinned=_nothing(errors))

    assert at_once == later
    assert at_once.outcome is Outcome.NOT_JUDGED
    assert at_once.lines == [f"vulnerability service unreachable: {errors.splitlines()[-1]}"]


@pytest.mark.parametrize("innocent", [SKIPPED, SOUND | {"name": "urllib3"}])
def test_service_that_does_not_know_the_canary_judges_nothing(innocent: dict[str, Any]) -> None:
    verdict = _judge(canary=_report(innocent), pinned=_report(SOUND))

    assert verdict.outcome is Outcome.NOT_JUDGED


@pytest.mark.parametrize("errors", [BROKEN, ""])
def test_tool_that_does_not_run_fails(errors: str) -> None:
    at_once = _judge(canary=_nothing(errors), pinned=_report(SOUND))
    later = _judge(canary=_report(VULNERABLE), pinned=_nothing(errors))

    assert at_once.outcome is later.outcome is Outcome.FAILED


@pytest.mark.parametrize("identifier", ["PYSEC-1", "CVE-1"])
@pytest.mark.parametrize(("days", "outcome"), [(0, Outcome.CLEAN), (-1, Outcome.FAILED)])
def test_accepted_vulnerability_passes_until_its_day(
    monkeypatch: pytest.MonkeyPatch, identifier: str, days: int, outcome: Outcome
) -> None:
    accepted = Accepted(identifier, "not reachable", TODAY + timedelta(days=days))
    monkeypatch.setattr(audit_packages, "ACCEPTED", (accepted,))

    verdict = _judge(canary=_report(VULNERABLE), pinned=_report(VULNERABLE))

    assert verdict.outcome is outcome


def test_accepted_vulnerabilities_have_a_reason_and_a_day_that_is_not_far() -> None:
    horizon = datetime.now(UTC).date() + timedelta(days=184)

    assert all(one.reason and one.until <= horizon for one in ACCEPTED)
