"""Rules about scopes: those that were asked for, those that the user consented to, and those that are required now.
Each rule returns its finding, or None if it does not apply."""

from services.user_management.enums import ReauthReason
from services.user_management.integrations.provider_config import OFFLINE_ACCESS
from services.user_management.schemas.diagnosis import Confidence, Finding, Responsible, Severity
from services.user_management.services.diagnosis_service.evidence import Evidence


def unticked_scopes(evidence: Evidence) -> Finding | None:
    """Find scopes that were asked for and not granted: the user unticked them on the provider's consent page."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or held.requested_scopes is None or held.disconnected_at is not None:
        return None
    granted = {*provider.normalise(held.granted_scopes), *provider.unreported_scopes}
    # No user ticks `offline_access`: whether the provider gives it depends on how our operator configured it.
    unticked = sorted(set(provider.normalise(held.requested_scopes)) - granted - {OFFLINE_ACCESS})
    if not unticked:
        return None
    required = sorted(set(unticked) & set(provider.required_scopes))
    return Finding(
        code="unticked_scopes",
        severity=Severity.WARNING if held.is_serving else Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The user did not consent to everything that was asked for",
        explanation=f"Left out on the page of {evidence.display_name}: "
        + ", ".join(evidence.describe(scope) for scope in unticked)
        + ". Requests that need it are refused with `insufficient_scope`.",
        evidence={
            "requested": sorted(held.requested_scopes),
            "granted": sorted(held.granted_scopes),
            "not_granted": unticked,
            "required": required,
            "connected_at": held.connected_at,
        },
        fix="The user connects again and leaves every box ticked. Tell them beforehand what each is for.",
        who=Responsible.USER,
    )


def offline_access_ignored(evidence: Evidence) -> Finding | None:
    """Report a provider that was asked for the scope `offline_access` but gave no refresh token. While the integration
    still works, report it only if its access token expires, and not if the provider has a `daily_expiry`."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or not held.lacks_offline_access:
        return None
    ends_at = held.access.expires_at if held.access is not None else None
    if held.is_serving and (ends_at is None or provider.daily_expiry is not None):
        return None
    prompt = {**provider.authorization_parameters, **provider.consent_for([OFFLINE_ACCESS])}.get("prompt", "")
    is_shown = "consent" in prompt.split()
    return Finding(
        code="offline_access_ignored",
        severity=Severity.WARNING if held.is_serving else Severity.ERROR,
        confidence=Confidence.LIKELY,
        title=f"{evidence.display_name} ignored `offline_access` and gave no refresh token",
        explanation=(
            "The provider's file has the consent page shown, so the cause is most likely our client's registration:"
            " it may not be allowed refresh tokens."
            if is_shown
            else "An OpenID provider ignores `offline_access` unless the request has `prompt=consent`, and the"
            " provider's file does not send it."
        )
        + " Until that is mended, connecting again changes nothing.",
        evidence={
            "requested": sorted(held.requested_scopes or ()),
            "granted": sorted(held.granted_scopes),
            "connected_at": held.connected_at,
            "access_token_ends_at": ends_at,
            "prompt": prompt or None,
        },
        fix=(
            "Allow our client refresh tokens in the provider's console (grant type `refresh_token`)."
            if is_shown
            else 'Put `prompt = "consent"` under [consent_parameters] of the provider file and restart.'
        )
        + " Then the users who connected before connect again.",
        who=Responsible.OPERATOR,
    )


def offline_access_unnamed(evidence: Evidence) -> Finding | None:
    """Find a provider that was asked for `offline_access`, gave a refresh token, and did not name that scope among the
    granted ones."""
    held, provider = evidence.integration, evidence.provider
    if held is None or provider is None or held.refresh is None or OFFLINE_ACCESS not in (held.requested_scopes or ()):
        return None
    if OFFLINE_ACCESS in {*provider.normalise(held.granted_scopes), *provider.unreported_scopes}:
        return None
    is_missing = not held.is_serving and held.status_reason == ReauthReason.SCOPE_MISSING
    return Finding(
        code="offline_access_unnamed",
        severity=Severity.ERROR if is_missing else Severity.WARNING,
        confidence=Confidence.CERTAIN,
        title=f"{evidence.display_name} gives `offline_access` and does not say so",
        explanation="The provider gave a refresh token and left `offline_access` out of the scopes in its answer."
        " Requests that demand that scope are refused.",
        evidence={"granted": sorted(held.granted_scopes), "connected_at": held.connected_at},
        fix='Put "offline_access" into unreported_scopes of the provider file and restart.',
        who=Responsible.OPERATOR,
    )


def scope_upgrade(evidence: Evidence) -> Finding | None:
    """Find an integration that stopped because the provider's file came to require a scope after the user had
    consented."""
    held, provider = evidence.integration, evidence.provider
    if held is None or held.is_serving or held.status_reason != ReauthReason.SCOPE_UPGRADE:
        return None
    missing = provider.missing_required(held.granted_scopes) if provider is not None else []
    return Finding(
        code="scope_upgrade",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        title="The product needs more than this user has consented to",
        explanation=(
            "Since the user consented, the product also requires: "
            + ", ".join(evidence.describe(scope) for scope in missing)
            + "."
            if missing
            else "The product required more for a while and no longer does: the next check brings the integration back."
        ),
        evidence={
            "missing": missing,
            "granted": sorted(held.granted_scopes),
            "since": held.status_changed_at,
            "connected_at": held.connected_at,
        },
        fix="The user connects again and consents to the rest." if missing else "Wait up to 15 minutes.",
        who=Responsible.USER if missing else Responsible.NOBODY,
    )


RULES = (scope_upgrade, unticked_scopes, offline_access_ignored, offline_access_unnamed)
