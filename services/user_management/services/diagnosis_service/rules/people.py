"""Rules about the user: tokens of a user who is not active are handed out to nobody, even if the integration works.
Each rule returns its finding, or None if it does not apply."""

from services.user_management.enums import UserStatus
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence


def user_deleted(evidence: Evidence) -> Finding | None:
    """Find a user who is deleted and not erased yet."""
    if evidence.user_deleted_at is None:
        return None
    return Finding(
        code="user_deleted",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The user is deleted",
        explanation="Nobody can read tokens of deleted users. The user is kept for a while and then erased.",
        evidence={"deleted_at": evidence.user_deleted_at},
        fix="If this was a mistake, an administrator can restore the user before the erasure.",
        who=Responsible.OPERATOR,
    )


def user_inactive(evidence: Evidence) -> Finding | None:
    """Find a user who is suspended, deactivated or not verified yet, and not deleted."""
    if evidence.user_status == UserStatus.ACTIVE or evidence.user_deleted_at is not None:
        return None
    return Finding(
        code="user_inactive",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"The user is {evidence.user_status.replace('_', ' ')}",
        explanation="Only active users' tokens are handed out. The integration itself is untouched by this.",
        evidence={"user_status": evidence.user_status},
        fix="Make the user active again, here or at the identity provider, wherever it was decided.",
        who=Responsible.OPERATOR,
    )


RULES = (user_deleted, user_inactive)
