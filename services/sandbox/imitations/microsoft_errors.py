"""Microsoft's errors and their numbers, for the sandbox's imitation of Microsoft:
https://learn.microsoft.com/entra/identity-platform/reference-error-codes."""

import re
from dataclasses import dataclass

from services.sandbox.oidc.errors import OAuthError

AADSTS_CODE = re.compile(r"AADSTS(\d+)")


@dataclass(frozen=True, slots=True)
class _Fault:
    """The error by which Microsoft reports one cause."""

    number: int
    text: str
    error: str = "invalid_grant"
    suberror: str | None = None


_BY_CAUSE = {
    "unknown": _Fault(9002313, "Invalid request. Request is malformed or invalid."),
    "code": _Fault(70008, "The provided authorization code or refresh token has expired."),
    "code_used": _Fault(54005, "OAuth2 Authorization code was already redeemed."),
    "redirect_uri": _Fault(50011, "The redirect URI specified in the request does not match.", "invalid_request"),
    "prompt": _Fault(90023, "Unsupported 'prompt' value.", "invalid_request"),
    "idle": _Fault(700082, "The refresh token has expired due to inactivity.", suberror="token_expired"),
    "spa_lifetime": _Fault(
        700084, "The refresh token was issued to a single page app (SPA) and has expired.", suberror="token_expired"
    ),
    "revoked_by_user": _Fault(
        65001,
        "The user or administrator has not consented to use the application.",
        "consent_required",
        "consent_required",
    ),
    "consent_required": _Fault(
        65001,
        "The user or administrator has not consented to use the application.",
        "consent_required",
        "consent_required",
    ),
    "mfa_required": _Fault(
        50076,
        "Due to a configuration change, you must use multi-factor authentication.",
        "interaction_required",
        "basic_action",
    ),
    "password_changed": _Fault(
        50173,
        "The provided grant has expired due to it being revoked, a fresh auth token is needed.",
        suberror="bad_token",
    ),
}
"""Cause of a refusal, or reason of a revocation, → Microsoft's error for it."""
_BY_ERROR = {
    "invalid_grant": _BY_CAUSE["password_changed"],
    "invalid_client": _Fault(7000215, "Invalid client secret provided.", "invalid_client"),
    "invalid_request": _Fault(900144, "The request body is not as it must be.", "invalid_request"),
    "invalid_scope": _Fault(70011, "The provided value for the input parameter 'scope' is not valid.", "invalid_scope"),
    "unsupported_grant_type": _Fault(70003, "The app requested an unsupported grant type.", "unsupported_grant_type"),
    "login_required": _Fault(50058, "A silent sign-in request was sent but no user is signed in.", "login_required"),
    "access_denied": _Fault(65004, "The user declined to consent to access the app.", "access_denied"),
}


def described(refusal: OAuthError) -> OAuthError:
    """Return the refusal as Microsoft reports it; a refusal that has no number stays as it is."""
    fault = _BY_CAUSE.get(refusal.cause) or _BY_ERROR.get(refusal.error)
    if fault is None:
        return refusal
    return OAuthError(
        fault.error,
        f"AADSTS{fault.number}: {fault.text}",
        status=refusal.status,
        headers=refusal.headers,
        cause=refusal.cause,
        members={"suberror": fault.suberror} if fault.suberror else {},
    )
