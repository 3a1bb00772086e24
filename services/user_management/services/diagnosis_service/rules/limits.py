"""Rules for consents that the provider ends by itself, by limits that its file states (`[grant_limits]`,
`daily_expiry`). Each rule returns its finding, or None if it does not apply."""

from datetime import timedelta
from typing import Final

from services.user_management.core.json_types import JSONObject
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence, IntegrationEvidence, in_days

_SLACK: Final = timedelta(hours=1)
"""The greatest difference that is allowed for between the provider's time of an event and ours."""
_NARROW: Final = timedelta(days=1)
"""If the end of a consent is known to within a day, its age at the end is good evidence for a limit as the cause."""
_IDLE_CODES: Final = frozenset({"AADSTS700082", "AADSTS70008"})
_SINGLE_PAGE_CODES: Final = frozenset({"AADSTS700084"})


def _died_at(held: IntegrationEvidence, limit: timedelta) -> Confidence | None:
    """Judge whether the consent may have ended at the age of `limit`: only if that moment lies between the last time
    that the consent worked and its refusal. None: it cannot; LIKELY: both are within a day of that moment; else
    POSSIBLE."""
    deadline = held.connected_at + limit
    if not held.last_worked_at - _SLACK <= deadline <= held.status_changed_at + _SLACK:
        return None
    narrow = held.status_changed_at - deadline <= _NARROW and deadline - held.last_worked_at <= _NARROW
    return Confidence.LIKELY if narrow else Confidence.POSSIBLE


def _life(held: IntegrationEvidence) -> JSONObject:
    return {
        "connected_at": held.connected_at,
        "last_worked_at": held.last_worked_at,
        "refused_at": held.status_changed_at,
        "days_from_consent_to_refusal": in_days(held.status_changed_at - held.connected_at),
        "error": held.last_failure,
        "detail": held.last_failure_detail,
    }


def testing_mode(evidence: Evidence) -> Finding | None:
    """Find a consent that ended, without a stated cause, at the age at which the provider ends the consents to clients
    that are not published (Google: seven days)."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or not held.is_refused_without_a_cause:
        return None
    days = provider.grant_limits.testing_days
    confidence = _died_at(held, timedelta(days=days)) if days is not None else None
    if confidence is None:
        return None
    return Finding(
        code="testing_mode",
        severity=Severity.ERROR,
        confidence=confidence,
        title=f"Our client at {evidence.display_name} seems to be in testing",
        explanation=f"While a client's publishing status is Testing, {evidence.display_name} ends every consent after"
        f" {days} days, and this consent ended at that age. All users of the client are hit, each in turn.",
        evidence=_life(held) | {"limit_days": days},
        fix="Publish the client in the provider's console (OAuth consent screen, Publish app); then the user connects"
        " again. Connecting again without publishing lasts another week.",
        who=Responsible.OPERATOR,
    )


def idle_grant(evidence: Evidence) -> Finding | None:
    """Find a consent that ended because its refresh token was not used for too long (six months at Google, 90 days at
    Microsoft): the provider's code says so, or it states no cause and the time fits."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or not held.is_refused:
        return None
    days = provider.grant_limits.idle_days
    idle = held.status_changed_at - held.last_worked_at
    said = bool(held.codes & _IDLE_CODES)
    fits = days is not None and held.is_refused_without_a_cause and idle >= timedelta(days=days)
    if not said and not fits:
        return None
    return Finding(
        code="idle_grant",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN if said else Confidence.LIKELY,
        title="The consent was unused for too long",
        explanation=f"{evidence.display_name} ends a consent that is not used for {days or 'a number of'} days. This"
        f" one was last used {in_days(idle)} days before it was refused.",
        evidence=_life(held) | {"idle_days": in_days(idle), "limit_days": days},
        fix="The user connects again. The workers renew tokens while they run: if they ran,"
        " find out why this one was left out.",
        who=Responsible.USER,
    )


def token_limit(evidence: Evidence) -> Finding | None:
    """Find an account that may have been connected too often: Google keeps 100 refresh tokens per account and client,
    and with one more the oldest stops working silently. Only a refusal without a stated cause is considered, and only
    if another user has connected the account since, or there were at least half as many connects as the limit."""
    held, provider, same = evidence.integration, evidence.provider, evidence.same_account
    if held is None or provider is None or same is None or not held.is_refused_without_a_cause:
        return None
    limit = provider.grant_limits.live_tokens_per_account
    connects = same.own_connects + same.newer_connects
    if limit is None or (same.newer_connects == 0 and connects < limit // 2):
        return None
    return Finding(
        code="token_limit",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY if connects >= limit else Confidence.POSSIBLE,
        title="The account may have been connected too often",
        explanation=f"{evidence.display_name} keeps {limit} refresh tokens per account and client; with one more the"
        " oldest stops working, and nobody is told.",
        evidence=_life(held)
        | {
            "limit": limit,
            "connects_by_this_user": same.own_connects,
            "connects_by_others_since": same.newer_connects,
            "other_integrations_of_the_account": same.other_integrations,
        },
        fix="The user connects again. Find out why this account is connected again and again: a test account that many"
        " share, or a product that asks for consent although it already has it.",
        who=Responsible.DEVELOPER,
    )


def single_page_client(evidence: Evidence) -> Finding | None:
    """Find signs that our redirect URI is registered at the provider with the type `spa` (single-page application), for
    which Microsoft ends refresh tokens after 24 hours: the provider's code says so, or it states no cause and the time
    fits."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or not held.is_refused:
        return None
    hours = provider.grant_limits.spa_hours
    said = bool(held.codes & _SINGLE_PAGE_CODES)
    silent = held.is_refused_without_a_cause and hours is not None
    confidence = Confidence.CERTAIN if said else _died_at(held, timedelta(hours=hours or 0)) if silent else None
    if confidence is None:
        return None
    return Finding(
        code="single_page_client",
        severity=Severity.ERROR,
        confidence=confidence,
        title="The redirect URI is registered as a single-page application's",
        explanation=f"For a redirect URI of the type SPA {evidence.display_name} issues refresh tokens that live"
        f" {hours or 24} hours and cannot be prolonged. Users would have to connect again every day.",
        evidence=_life(held) | {"limit_hours": hours},
        fix="In the provider's console move the redirect URI from the platform Single-page application to Web; then the"
        " user connects again.",
        who=Responsible.OPERATOR,
    )


def daily_expiry(evidence: Evidence) -> Finding | None:
    """Find an integration, not disconnected, with a provider that ends all its tokens at a fixed time of day."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or provider.daily_expiry is None or held.disconnected_at is not None:
        return None
    ends = provider.daily_expiry
    time = f"{ends.hour:02}:{ends.minute:02} {ends.zone}"
    return Finding(
        code="daily_expiry",
        severity=Severity.NOTICE if held.is_serving else Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} ends all sessions every day",
        explanation=f"Every access token ends at {time} and cannot be refreshed. This is how the provider works, and"
        " not a fault.",
        evidence={
            "daily_expiry": time,
            "connected_at": held.connected_at,
            "seconds_until_the_next": round(ends.seconds_left(evidence.now)),
        },
        fix="The user connects again each day; the product can ask for it when it is needed.",
        who=Responsible.USER,
    )


RULES = (daily_expiry, single_page_client, testing_mode, idle_grant, token_limit)
