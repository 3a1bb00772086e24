"""Applies all rules to the evidence, and adds at most one of two findings that depend on the others: the integration
works, or it does not and no rule explains why."""

from collections.abc import Sequence

from services.user_management.enums import TokenOutcome
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence
from services.user_management.services.diagnosis_service.rules import RULES

_SURENESS = {confidence: rank for rank, confidence in enumerate(Confidence)}
_GRAVITY = {severity: rank for rank, severity in enumerate(Severity)}


def judge(evidence: Evidence) -> list[Finding]:
    """Return the findings of all rules, and `works` or `cause_unknown` where one of these applies. The most certain
    come first, and among equally certain ones the worst."""
    findings = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    if (overall := _overall(evidence, findings)) is not None:
        findings.append(overall)
    return sorted(findings, key=lambda finding: (_SURENESS[finding.confidence], _GRAVITY[finding.severity]))


def _overall(evidence: Evidence, findings: Sequence[Finding]) -> Finding | None:
    """Return "works" if the integration serves tokens and there is no other finding, "cause unknown" if it does not and
    no finding is an error; otherwise, and without an integration, None.

    "Works" is never added to another finding, since people would read it and overlook the other.
    """
    if evidence.integration is None:
        return None
    if evidence.integration.is_serving:
        return None if findings else _works(evidence)
    explained = any(finding.severity is Severity.ERROR for finding in findings)
    return None if explained else _unexplained(evidence)


def _works(evidence: Evidence) -> Finding:
    held = evidence.integration
    granted = evidence.reads.get(TokenOutcome.GRANTED)
    facts = {
        "last_refresh_at": held.last_refresh_at if held is not None else None,
        "last_checked_at": held.last_checked_at if held is not None else None,
        "last_read_at": granted.last_at if granted is not None else None,
        "access_token_ends_at": held.access.expires_at if held is not None and held.access is not None else None,
        "latest_reads": {outcome.value: found.reads for outcome, found in evidence.reads.items()},
    }
    last = {"refreshed": facts["last_refresh_at"], "checked": facts["last_checked_at"], "read": facts["last_read_at"]}
    said = ", ".join(f"last {what} {at:%Y-%m-%d %H:%M} UTC" for what, at in last.items() if at is not None)
    return Finding(
        code="works",
        severity=Severity.GOOD,
        confidence=Confidence.CERTAIN,
        title="The integration works",
        explanation=f"Works: {said}." if said else "Works: it is new, and nobody has read or refreshed it yet.",
        evidence=facts,
        fix="Nothing has to be done.",
        who=Responsible.NOBODY,
    )


def _unexplained(evidence: Evidence) -> Finding:
    held = evidence.integration
    facts = (
        {}
        if held is None
        else {
            "status": held.status,
            "reason": held.status_reason,
            "error": held.last_failure,
            "detail": held.last_failure_detail,
            "since": held.status_changed_at,
            "connected_at": held.connected_at,
            "last_worked_at": held.last_worked_at,
        }
    )
    return Finding(
        code="cause_unknown",
        severity=Severity.ERROR,
        confidence=Confidence.POSSIBLE,
        title=f"{evidence.display_name} ended the consent and did not say why",
        explanation="The usual causes are a user who removed the access in their account there, a changed password, and"
        " an administrator's decision. The times fit no other known cause.",
        evidence=facts,
        fix="The user connects again. If many are hit at once, look at the provider's console and its announcements.",
        who=Responsible.USER,
    )
