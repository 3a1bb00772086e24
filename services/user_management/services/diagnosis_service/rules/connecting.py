"""Rules about connecting and disconnecting: a provider that is not configured, an integration that was never made or
was disconnected, a connect attempt that failed, a revocation that is not done. Each rule returns its finding, or None
if it does not apply."""

from typing import Final

from services.user_management.enums import FlowStatus, IntegrationStatus, ProviderErrorKind, RevocationState
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence, FlowEvidence
from services.user_management.services.diagnosis_service.rules.refusals import ADMIN_POLICY_CODES

_ENDED_BY: Final = {
    "user": "by the user",
    "user_deleted": "when the user deleted their account",
}


def provider_not_configured(evidence: Evidence) -> Finding | None:
    """Find a provider that is not configured: this service has no file for it, or no client there."""
    if evidence.provider is not None:
        return None
    return Finding(
        code="provider_not_configured",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.provider_name} is not configured",
        explanation="This service has no client at a provider of this name, so it can neither connect nor refresh.",
        evidence={"provider": evidence.provider_name, "connected": evidence.integration is not None},
        fix="Check the spelling; or give the provider's file (PROVIDERS_DIR) and our client there (OAUTH_CLIENTS).",
        who=Responsible.OPERATOR,
    )


def never_connected(evidence: Evidence) -> Finding | None:
    """Find a user who has no integration with this provider (or with the account asked for), not even a disconnected
    one. Without a configured provider, `provider_not_configured` is the finding."""
    if evidence.integration is not None or evidence.provider is None:
        return None
    return Finding(
        code="never_connected",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} was never connected",
        explanation="This user has no such integration here, and never had one.",
        evidence={"attempts_in_the_last_day": len(evidence.flows)},
        fix=f"Let the user connect {evidence.display_name}.",
        who=Responsible.USER,
    )


def disconnected(evidence: Evidence) -> Finding | None:
    """Find an integration that was disconnected here. The reason in its row says by whom; an unknown reason is shown as
    "by this service"."""
    held = evidence.integration
    if held is None or held.status is not IntegrationStatus.DISCONNECTED:
        return None
    return Finding(
        code="disconnected",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} was disconnected",
        explanation=f"The integration was ended here {_ENDED_BY.get(held.status_reason or '', 'by this service')}.",
        evidence={"disconnected_at": held.disconnected_at, "by": held.status_reason, "connected_at": held.connected_at},
        fix=f"If it is wanted again, let the user connect {evidence.display_name}.",
        who=Responsible.USER,
    )


def connect_attempt(evidence: Evidence) -> Finding | None:
    """Find the latest connect attempt, if it did not succeed, and say at which step it stopped.

    There is no finding while the user may still come back from the provider, if the attempt is older than the present
    status of the integration, if the integration works, or if an administrator's policy refused the attempt, which the
    rule `admin_policy` finds.
    """
    flow = evidence.flows[0] if evidence.flows else None
    held = evidence.integration
    if flow is None or (held is not None and (held.is_serving or flow.created_at < held.status_changed_at)):
        return None
    if flow.error is not None:
        return None if flow.error in ADMIN_POLICY_CODES else _refused_attempt(evidence, flow, flow.error)
    if flow.status is FlowStatus.RETURNED:
        return _unconfirmed_attempt(evidence, flow)
    if flow.status is FlowStatus.CONSUMED:
        return _unexchanged_attempt(evidence, flow)
    return _abandoned_attempt(evidence, flow) if flow.expires_at < evidence.now else None


def _refused_attempt(evidence: Evidence, flow: FlowEvidence, error: str) -> Finding:
    kind = evidence.provider.error_kind(error) if evidence.provider is not None else None
    ours = kind is ProviderErrorKind.OPERATOR
    said_no = error == "access_denied"
    return Finding(
        code="consent_denied" if said_no else "connect_failed",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The user did not consent" if said_no else f"{evidence.display_name} refused the attempt to connect",
        explanation=(
            "On the provider's page the user cancelled the consent, or nobody there is allowed to give it."
            if said_no
            else f"The provider sent the browser back with the error `{error}`."
        ),
        evidence={"error": error, "started_at": flow.created_at, "attempts_in_the_last_day": len(evidence.flows)},
        fix="Compare our client with the provider's console." if ours else "The user connects again and consents.",
        who=Responsible.OPERATOR if ours else Responsible.USER,
    )


def _unconfirmed_attempt(evidence: Evidence, flow: FlowEvidence) -> Finding:
    return Finding(
        code="connect_unconfirmed",
        severity=Severity.ERROR,
        # Until the attempt expires, the product may be about to confirm it.
        confidence=Confidence.CERTAIN if flow.expires_at < evidence.now else Confidence.LIKELY,
        title="The product has not confirmed the attempt to connect",
        explanation="The user consented and came back, but the front end did not finish with the flow it was given.",
        evidence={"started_at": flow.created_at, "expires_at": flow.expires_at},
        fix=(
            "On the page of the return URL, POST the `flow` parameter to"
            f" /users/me/integrations/{evidence.provider_name} in the session of the user who started."
        ),
        who=Responsible.DEVELOPER,
    )


def _unexchanged_attempt(evidence: Evidence, flow: FlowEvidence) -> Finding:
    return Finding(
        code="code_exchange_failed",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY,
        title=f"{evidence.display_name} gave no tokens for the user's consent",
        explanation="The attempt was confirmed, and then the provider refused the code, did not answer, or answered"
        " something that must not be used. The code is used up.",
        evidence={"started_at": flow.created_at, "confirmed_at": flow.consumed_at},
        fix="The user connects again. If it fails again, the log line `connect.exchange_failed` has the cause.",
        who=Responsible.USER,
    )


def _abandoned_attempt(evidence: Evidence, flow: FlowEvidence) -> Finding:
    return Finding(
        code="connect_abandoned",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY,
        title=f"The user did not come back from {evidence.display_name}",
        explanation="The browser was sent to the provider and never returned: the window was closed, or the provider"
        " showed an error of its own, as for a redirect URI that it does not know.",
        evidence={"started_at": flow.created_at, "expired_at": flow.expires_at},
        fix="Ask the user what they saw there. An error page of the provider points to our client's registration;"
        " otherwise the user connects again.",
        who=Responsible.USER,
    )


def revocation_unfinished(evidence: Evidence) -> Finding | None:
    """Find a disconnected integration whose consent is not revoked at the provider: the revocation is still pending,
    was impossible, or was ended without success."""
    revocation, held = evidence.revocation, evidence.integration
    if revocation is None or held is None or held.status is not IntegrationStatus.DISCONNECTED:
        return None
    facts = {
        "state": revocation.state,
        "requested_at": revocation.requested_at,
        "attempts": revocation.attempts,
        "last_failure": revocation.last_failure,
        "next_attempt_at": revocation.next_attempt_at,
    }
    if revocation.state is RevocationState.PENDING:
        return Finding(
            code="revocation_pending",
            severity=Severity.NOTICE,
            confidence=Confidence.CERTAIN,
            title=f"The consent is not revoked at {evidence.display_name} yet",
            explanation="No token is readable here any more. The provider is asked to revoke the consent, again and"
            " again until it has.",
            evidence=facts,
            fix="Wait. The user can also remove the access in their account at the provider.",
            who=Responsible.NOBODY,
        )
    if revocation.state not in {RevocationState.IMPOSSIBLE, RevocationState.GIVEN_UP}:
        return None
    note = evidence.provider.revocation_note if evidence.provider is not None else None
    return Finding(
        code="revocation_impossible" if revocation.state is RevocationState.IMPOSSIBLE else "revocation_given_up",
        severity=Severity.NOTICE,
        confidence=Confidence.CERTAIN,
        title=f"The consent lives on at {evidence.display_name}",
        explanation="No token is readable here any more, but the provider still lists the access: "
        + (note or "it could not be made to revoke it."),
        evidence=facts,
        fix="The user removes the access in their account at the provider.",
        who=Responsible.USER,
    )


RULES = (provider_not_configured, connect_attempt, disconnected, never_connected, revocation_unfinished)
