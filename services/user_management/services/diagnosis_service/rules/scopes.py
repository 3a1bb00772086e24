"""What was asked for, what was granted, and what is required by now."""

from services.user_management.enums import ReauthReason
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence


def unticked_scopes(evidence: Evidence) -> Finding | None:
    """Providers let people untick single scopes on the consent page."""
    held, provider = evidence.connection, evidence.provider
    if held is None or provider is None or held.requested_scopes is None or held.disconnected_at is not None:
        return None
    granted = {*provider.normalise(held.granted_scopes), *provider.unreported_scopes}
    unticked = sorted(set(provider.normalise(held.requested_scopes)) - granted)
    if not unticked:
        return None
    required = sorted(set(unticked) & set(provider.required_scopes))
    return Finding(
        code="unticked_scopes",
        severity=Severity.WARNING if held.is_serving else Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The user did not grant everything that was asked for",
        explanation=f"Left out on the page of {evidence.display_name}: "
        + ", ".join(evidence.describe(scope) for scope in unticked)
        + ". What needs it is refused with `insufficient_scope`.",
        evidence={
            "requested": sorted(held.requested_scopes),
            "granted": sorted(held.granted_scopes),
            "not_granted": unticked,
            "required": required,
            "connected_at": held.connected_at,
        },
        fix="The user connects again and leaves every box ticked. Say beforehand what each is for.",
        who=Responsible.USER,
    )


def scope_upgrade(evidence: Evidence) -> Finding | None:
    """The provider file was raised after the user had consented."""
    held, provider = evidence.connection, evidence.provider
    if held is None or held.is_serving or held.status_reason != ReauthReason.SCOPE_UPGRADE:
        return None
    missing = provider.missing_required(held.granted_scopes) if provider is not None else []
    return Finding(
        code="scope_upgrade",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The product needs more than this user has granted",
        explanation=(
            "Since the user consented, the product requires also: "
            + ", ".join(evidence.describe(scope) for scope in missing)
            + "."
            if missing
            else "The product required more for a while and no longer does: the next check brings the connection back."
        ),
        evidence={
            "missing": missing,
            "granted": sorted(held.granted_scopes),
            "since": held.status_changed_at,
            "connected_at": held.connected_at,
        },
        fix="The user connects again and grants the rest." if missing else "Wait up to 15 minutes.",
        who=Responsible.USER if missing else Responsible.NOBODY,
    )


RULES = (scope_upgrade, unticked_scopes)
