"""Rules about the stored tokens: tokens that are missing, that cannot be decrypted, or that a lost answer made useless.
Each rule returns its finding, or None if it does not apply."""

from services.user_management.enums import IntegrationStatus, ReauthReason
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import (
    Evidence,
    IntegrationEvidence,
    Readability,
    TokenEvidence,
)


def _tokens(held: IntegrationEvidence) -> dict[str, TokenEvidence]:
    found = {"access": held.access, "refresh": held.refresh}
    return {kind: token for kind, token in found.items() if token is not None}


def refresh_interrupted(evidence: Evidence) -> Finding | None:
    """Find an integration that ended because the answer to a refresh was lost: the new refresh token never arrived, and
    the provider does not accept the old one again."""
    held = evidence.integration
    if held is None or held.is_serving or held.status_reason != ReauthReason.REFRESH_INTERRUPTED:
        return None
    return Finding(
        code="refresh_interrupted",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="A refresh was cut off in the middle",
        explanation=f"{evidence.display_name} replaces the refresh token with every use. One request reached it and the"
        " answer with the new token was lost: a connection that broke, or a process that was killed while it waited."
        " The old token no longer works.",
        evidence={
            "interrupted_at": held.status_changed_at,
            "last_refresh_at": held.last_refresh_at,
            "error": held.last_failure,
        },
        fix="The user connects again. If it happens to many at once, look for processes that were killed.",
        who=Responsible.USER,
    )


def no_refresh_token(evidence: Evidence) -> Finding | None:
    """Find an integration without a refresh token, which works only until its access token expires, or has ended for
    that reason. Cases that `offline_access_ignored` or `daily_expiry` explain are left out."""
    held = evidence.integration
    ended = held is not None and held.status_reason == ReauthReason.NO_REFRESH_TOKEN
    if held is None or not (held.is_serving or ended) or held.refresh is not None:
        return None
    ends_at = held.access.expires_at if held.access is not None else None
    if ends_at is None or held.lacks_offline_access:
        return None
    if evidence.provider is not None and evidence.provider.daily_expiry is not None:
        return None
    return Finding(
        code="no_refresh_token",
        severity=Severity.WARNING if held.is_serving else Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} gave no refresh token",
        explanation="The integration works until its access token ends and cannot be renewed: the consent did not cover"
        " lasting access, or the provider gives a refresh token with the first consent only.",
        evidence={"connected_at": held.connected_at, "access_token_ends_at": ends_at},
        fix="The user connects again; the consent is then asked for anew. If that does not help, the user first removes"
        " the product's access in their account at the provider.",
        who=Responsible.USER,
    )


def key_missing(evidence: Evidence) -> Finding | None:
    """Find stored tokens that this process cannot decrypt, because it lacks their key version or holds another secret
    under its number. This is an operator's error; the tokens are intact."""
    held = evidence.integration
    missing = {
        kind: token.key_version
        for kind, token in (_tokens(held) if held is not None else {}).items()
        if token.readability is Readability.KEY_MISSING
    }
    if not missing:
        return None
    return Finding(
        code="key_missing",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="This process does not hold the key of the stored tokens",
        explanation="The tokens are intact but encrypted under a key version that was not given to this process, or was"
        " given with another secret. Nobody has to connect again.",
        evidence={"key_versions": missing},
        fix="Give the key version to every process (`cli keys status` says which are missing), and restart it.",
        who=Responsible.OPERATOR,
    )


def token_unreadable(evidence: Evidence) -> Finding | None:
    """Find a stored token that is damaged, because something other than this service changed it; also an integration
    that was ended for that reason."""
    held = evidence.integration
    if held is None or held.status is IntegrationStatus.DISCONNECTED:
        return None
    damaged = [kind for kind, token in _tokens(held).items() if token.readability is Readability.UNREADABLE]
    if not damaged and held.status_reason != ReauthReason.TOKEN_UNREADABLE:
        return None
    return Finding(
        code="token_unreadable",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The stored token is damaged",
        explanation="Its key is right and proven, and still the ciphertext cannot be opened: the row was changed or"
        " moved by something that is not this service, such as a restore of a part of the tables.",
        evidence={"kinds": damaged, "since": held.status_changed_at},
        fix="The user connects again. Find out who wrote to the table; there may be more such rows.",
        who=Responsible.OPERATOR,
    )


RULES = (key_missing, token_unreadable, refresh_interrupted, no_refresh_token)
