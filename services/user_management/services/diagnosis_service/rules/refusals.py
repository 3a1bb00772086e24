"""Rules about refusals by the provider: with a code that says why, with one that its file does not list, or without a
cause and perhaps by another party's doing. Each rule returns its finding, or None if it does not apply."""

from typing import Final

from services.user_management.core.json_types import JSONObject
from services.user_management.enums import IntegrationStatus, ReauthReason
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence

# https://developers.google.com/identity/protocols/oauth2/web-server#authorization-errors
# https://learn.microsoft.com/entra/identity-platform/reference-error-codes
# https://api.slack.com/methods/oauth.v2.access#errors
ADMIN_POLICY_CODES: Final = {
    "admin_policy_enforced": "the customer's Google Workspace administrator blocks this client or one of its scopes",
    "org_internal": "the client is open to one Google Workspace organization only, and this account is of another",
    "AADSTS50105": "the customer's administrator has not assigned the user to this application",
    "AADSTS65001": "neither the user nor the customer's administrator consents (any more) to what is asked for",
    "AADSTS65004": "the user declined the consent",
    "AADSTS90093": "an administrator has to consent to one of the scopes",
    "AADSTS90094": "an administrator has to consent",
    "AADSTS90095": "an administrator has been asked to consent and has not yet",
    "AADSTS700016": "the application is not known in the customer's directory",
    "consent_required": "a consent is missing, the user's or the administrator's",
    "team_access_not_granted": "the Slack app is not approved for this workspace",
}
_USERS_OR_ADMINISTRATORS: Final = frozenset({"AADSTS65001", "consent_required"})
"""Codes that can mean either that the administrator has not consented, or that the user withdrew the consent."""
SIGN_IN_POLICY_CODES: Final = {
    "AADSTS50076": "multi-factor authentication is required now",
    "AADSTS50078": "the multi-factor authentication has expired",
    "AADSTS50079": "the user has to enrol for multi-factor authentication",
    "AADSTS50097": "the device has to authenticate",
    "AADSTS50158": "an external security challenge was not passed",
    "AADSTS53000": "the device does not comply with the customer's policy",
    "AADSTS53001": "the device is not joined to the customer's domain",
    "AADSTS53003": "conditional access blocks the issue of tokens",
    "AADSTS70043": "the sign-in frequency of conditional access has passed",
    "interaction_required": "the user has to sign in there in person",
}
TAKEN_BACK_CODES: Final = {
    "AADSTS50173": "the password was changed or reset, or an administrator ended all sessions",
    "AADSTS50133": "the session ended, as after a change of the password",
    "AADSTS70000": "the consent was revoked",
    "token_revoked": "the token was revoked",
    "account_inactive": "the account at the provider was deactivated",
    "bad_refresh_token": "the refresh token is not known there any more",
}


def _said(evidence: Evidence, codes: dict[str, str]) -> str | None:
    """Return the provider's last code if `codes` has it: the more detailed code, otherwise the error code. None if
    neither is in `codes`, or if the integration works, is disconnected or does not exist."""
    held = evidence.integration
    if held is None or held.is_serving or held.status is IntegrationStatus.DISCONNECTED:
        return None
    return next((code for code in (held.last_failure_detail, held.last_failure) if code in codes), None)


def _facts(evidence: Evidence) -> JSONObject:
    held = evidence.integration
    if held is None:
        return {}
    return {
        "error": held.last_failure,
        "detail": held.last_failure_detail,
        "refused_at": held.last_failure_at or held.status_changed_at,
        "connected_at": held.connected_at,
    }


def admin_policy(evidence: Evidence) -> Finding | None:
    """Find a refusal of the integration, or of the latest connect attempt, that an administrator at the customer has to
    lift."""
    held = evidence.integration
    code, facts = _said(evidence, ADMIN_POLICY_CODES), _facts(evidence)
    attempt = evidence.flows[0] if evidence.flows else None
    stands = held is None or not held.is_serving
    if code is None and stands and attempt is not None and attempt.error in ADMIN_POLICY_CODES:
        code, facts = attempt.error, {"error": attempt.error, "attempted_at": attempt.created_at}
    if code is None:
        return None
    return Finding(
        code="admin_policy",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY if code in _USERS_OR_ADMINISTRATORS else Confidence.CERTAIN,
        title=f"An administrator's policy at {evidence.display_name} stands in the way",
        explanation=f"The provider said `{code}`: {ADMIN_POLICY_CODES[code]}. Connecting again changes nothing until"
        " that is decided.",
        evidence=facts,
        fix="Let the customer's administrator allow this client, or consent to it; then the user connects again.",
        who=Responsible.USER,
    )


def reauthentication_policy(evidence: Evidence) -> Finding | None:
    """Find a consent that was ended by Google Cloud session control, a limit on the length of sessions that the
    customer's administrator sets (`invalid_rapt`)."""
    held = evidence.integration
    if held is None or held.is_serving or not held.codes & {"invalid_rapt", "rapt_required"}:
        return None
    return Finding(
        code="reauthentication_policy",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The customer's reauthentication policy ended the consent",
        explanation="The administrator has set a session length for Google Cloud or for this client's scopes; after it"
        " every consent ends (`invalid_rapt`). It will happen again after the same time.",
        evidence=_facts(evidence),
        fix="The user connects again. For good: the administrator marks this client as trusted, which exempts it"
        " (Admin console, Security, Google Cloud session control).",
        who=Responsible.USER,
    )


def sign_in_policy(evidence: Evidence) -> Finding | None:
    """Find a refusal by the customer's rules for sign-ins, such as multi-factor authentication or conditional
    access."""
    code = _said(evidence, SIGN_IN_POLICY_CODES)
    if code is None:
        return None
    return Finding(
        code="sign_in_policy",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The provider wants the user to sign in in person",
        explanation=f"The provider said `{code}`: {SIGN_IN_POLICY_CODES[code]}. A refresh token does not satisfy that.",
        evidence=_facts(evidence),
        fix="The user connects again and passes the extra step. If it comes back soon, the customer's administrator"
        " looks at the conditional access policies that apply to this client.",
        who=Responsible.USER,
    )


def consent_taken_back(evidence: Evidence) -> Finding | None:
    """Find a consent that was revoked at the provider, or ended with a changed password or a deactivated account
    there."""
    held = evidence.integration
    code = _said(evidence, TAKEN_BACK_CODES)
    unclear = _said(evidence, ADMIN_POLICY_CODES) in _USERS_OR_ADMINISTRATORS
    if code is None and not unclear and (held is None or held.status is not IntegrationStatus.REVOKED):
        return None
    return Finding(
        code="consent_taken_back",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY if code is None and unclear else Confidence.CERTAIN,
        title=f"The access was taken back at {evidence.display_name}",
        explanation=(
            f"The provider said `{code}`: {TAKEN_BACK_CODES[code]}."
            if code is not None
            else "The user or their administrator removed this product's access there."
        ),
        evidence=_facts(evidence),
        fix="If the user still wants it, they connect again.",
        who=Responsible.USER,
    )


def grant_ended_by_another_disconnect(evidence: Evidence) -> Finding | None:
    """Find a consent that ended when another integration of the same account was disconnected here: some providers end
    the account's whole consent when one token is revoked."""
    held, same = evidence.integration, evidence.same_account
    if held is None or same is None or not held.is_refused or same.consent_ended_at is None:
        return None
    if not _ends_whole_consents(evidence) or same.consent_ended_at > held.status_changed_at:
        return None
    return Finding(
        code="grant_ended_by_another_disconnect",
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY,
        title="The same account was disconnected elsewhere",
        explanation=f"At {evidence.display_name} revoking one token ends the account's whole consent to our client."
        " Another integration of the same account was disconnected and revoked before this one was refused.",
        evidence={
            "other_integrations": same.other_integrations,
            "revoked_at": same.consent_ended_at,
            "refused_at": held.status_changed_at,
        },
        fix="The user connects again. One account at the provider is best connected once.",
        who=Responsible.USER,
    )


def client_shared(evidence: Evidence) -> Finding | None:
    """Find signs that another deployment uses the same client id, and got the refresh token or revoked the consent:
    there is no refresh token although the consent was asked for anew, or the consent ended without a stated cause."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or held.status is IntegrationStatus.DISCONNECTED:
        return None
    expires = held.access is not None and held.access.expires_at is not None
    not_given = held.refresh is None and expires and bool(provider.consent_parameters)
    given_elsewhere = not_given and (held.is_serving or held.status_reason == ReauthReason.NO_REFRESH_TOKEN)
    if not given_elsewhere and not (held.is_refused_without_a_cause and _ends_whole_consents(evidence)):
        return None
    return Finding(
        code="client_shared",
        severity=Severity.WARNING if held.is_serving else Severity.ERROR,
        confidence=Confidence.POSSIBLE,
        title="Another deployment may share our client",
        explanation="Two deployments, such as staging and production, with one client id are one client to"
        f" {evidence.display_name}: the refresh token went to whoever asked first, and a revocation by one ends the"
        " consent of both.",
        evidence={
            "has_refresh_token": held.refresh is not None,
            "consent_was_asked_for": bool(provider.consent_parameters),
            "connected_at": held.connected_at,
            "error": held.last_failure,
        },
        fix="Give every deployment a client of its own at the provider; then the user connects again.",
        who=Responsible.OPERATOR,
    )


def refused_for_days(evidence: Evidence) -> Finding | None:
    """Find an integration whose refreshes were refused for days with an error code that the provider's file does not
    list."""
    held = evidence.integration
    if held is None or held.status_reason != ReauthReason.REFRESH_EXHAUSTED:
        return None
    return Finding(
        code="refused_for_days",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} refused for days with an unknown code",
        explanation=f"The provider answered every refresh with `{held.last_failure}`, which its file does not list. The"
        " refresh was tried for three days before the user was asked.",
        evidence=_facts(evidence) | {"failing_since": held.failing_since, "failures": held.refresh_failures},
        fix="The user connects again. Whoever keeps the provider's file looks the code up and adds it to [errors].",
        who=Responsible.DEVELOPER,
    )


def _ends_whole_consents(evidence: Evidence) -> bool:
    revocation = evidence.provider.revocation if evidence.provider is not None else None
    return revocation is not None and revocation.whole_consent


RULES = (
    admin_policy,
    reauthentication_policy,
    sign_in_policy,
    consent_taken_back,
    grant_ended_by_another_disconnect,
    refused_for_days,
    client_shared,
)
