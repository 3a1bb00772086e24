"""Rules about passing troubles and causes outside this user's integration: the provider, our client there, pauses, and
clocks. Each rule returns its finding, or None if it does not apply."""

from collections.abc import Iterable
from typing import Final

from services.user_management.enums import IntegrationStatus, ProviderErrorKind, ProviderState, ReauthReason
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence

CLOCK_SKEW_SECONDS: Final = 60
# https://docs.slack.dev/reference/methods/oauth.v2.access
_LIKELY_CAUSES: Final = {
    "org_login_required": "most likely the Slack workspace is just being moved into an Enterprise organization",
}


def _last_failure_is(evidence: Evidence, kind: ProviderErrorKind) -> bool:
    """Tell whether the integration serves tokens and its last failure is of this kind, as the provider's file
    classifies error codes."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or not held.is_serving or held.last_failure is None:
        return False
    details = [held.last_failure_detail] if held.last_failure_detail is not None else []
    return provider.error_kind(held.last_failure, details) is kind


def provider_down(evidence: Evidence) -> Finding | None:
    """Find a provider that is down, according to the periodic check of integrations."""
    health = evidence.health
    if health is None or health.state is not ProviderState.DOWN:
        return None
    return Finding(
        code="provider_down",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} does not answer",
        explanation="The provider fails for all integrations. Tokens that are still good are handed out; nobody has to"
        " connect again.",
        evidence={"reason": health.reason, "since": health.since, "checked_at": health.checked_at},
        fix="Wait, and look at the provider's status page. It is checked every 15 minutes.",
        who=Responsible.NOBODY,
    )


def client_misconfigured(evidence: Evidence) -> Finding | None:
    """Find a provider that refuses our client, whoever the user is, according to the periodic check of integrations or
    to this integration's last failure."""
    health, held = evidence.health, evidence.integration
    by_check = health is not None and health.state is ProviderState.MISCONFIGURED
    by_refresh = _last_failure_is(evidence, ProviderErrorKind.OPERATOR)
    if not by_check and not by_refresh:
        return None
    return Finding(
        code="client_misconfigured",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} refuses our client",
        explanation="The client's id, secret or registration at the provider is not what this service uses; perhaps the"
        " secret ran out. All users of the provider are hit; nobody has to connect again.",
        evidence={
            "reason": health.reason if by_check and health is not None else held.last_failure if held else None,
            "since": health.since if by_check and health is not None else held.failing_since if held else None,
            "last_failure_at": held.last_failure_at if held is not None else None,
        },
        fix="Compare OAUTH_CLIENTS with the provider's console: secret, redirect URI, and whether the client exists.",
        who=Responsible.OPERATOR,
    )


def refresh_failing(evidence: Evidence) -> Finding | None:
    """Find an integration that still works and whose latest refreshes failed at the provider, for another reason than
    that the provider refuses our client."""
    held = evidence.integration
    if held is None or not held.is_serving or held.refresh_failures == 0:
        return None
    if _last_failure_is(evidence, ProviderErrorKind.OPERATOR):
        return None
    return Finding(
        code="refresh_failing",
        severity=Severity.WARNING,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} failed to renew the token {held.refresh_failures} times in a row",
        explanation=f"The failures are of a kind that passes{_likely_cause(held.codes)}. What is left of the present"
        " token is handed out.",
        evidence={
            "error": held.last_failure,
            "failures": held.refresh_failures,
            "failing_since": held.failing_since,
            "last_failure_at": held.last_failure_at,
        },
        fix="Wait; it is tried again with growing pauses.",
        who=Responsible.NOBODY,
    )


def _likely_cause(codes: Iterable[str]) -> str:
    return next((f": {_LIKELY_CAUSES[code]} (`{code}`)" for code in codes if code in _LIKELY_CAUSES), "")


def cool_down(evidence: Evidence) -> Finding | None:
    """Find an integration that still works and is in the pause after a failure, in which it is not refreshed."""
    held = evidence.integration
    if held is None or not held.is_serving or held.last_failure in {None, ReauthReason.NO_REFRESH_TOKEN}:
        return None
    if held.refresh_not_before is None or held.refresh_not_before <= evidence.now:
        return None
    return Finding(
        code="cool_down",
        severity=Severity.NOTICE,
        confidence=Confidence.CERTAIN,
        title="The provider is left in peace for a moment",
        explanation="After a failure the provider is not asked again before a pause is over; until then a refresh is"
        " answered with 503 and Retry-After.",
        evidence={
            "until": held.refresh_not_before,
            "seconds_left": round((held.refresh_not_before - evidence.now).total_seconds()),
            "error": held.last_failure,
        },
        fix="Wait for the end of the pause.",
        who=Responsible.NOBODY,
    )


def clock_skew(evidence: Evidence) -> Finding | None:
    """Find an integration for which our clock and the provider's differed by more than a minute when the account was
    connected."""
    held = evidence.integration
    skew = held.clock_skew_seconds if held is not None else None
    if held is None or skew is None or abs(skew) <= CLOCK_SKEW_SECONDS:
        return None
    if held.status is IntegrationStatus.DISCONNECTED:
        return None
    behind = "behind" if skew > 0 else "ahead of"
    return Finding(
        code="clock_skew",
        severity=Severity.WARNING,
        confidence=Confidence.CERTAIN,
        title=f"Our clock is {abs(skew)} seconds {behind} the provider's",
        explanation="Signed tokens carry times. With clocks this far apart they are taken for expired or not yet valid,"
        " here or there, and connecting fails now and then.",
        evidence={"clock_skew_seconds": skew, "measured_at": held.connected_at, "limit_seconds": CLOCK_SKEW_SECONDS},
        fix="Synchronise the clocks of the machines that this service runs on (NTP).",
        who=Responsible.OPERATOR,
    )


RULES = (provider_down, client_misconfigured, refresh_failing, cool_down, clock_skew)
