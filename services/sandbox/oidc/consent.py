"""The authorization endpoint: the consent page, and the decision (by a person, or by a test in one request)."""

from fastapi.responses import RedirectResponse, Response

from services.sandbox.errors import SandboxError
from services.sandbox.forms import Form
from services.sandbox.ledger import Entry
from services.sandbox.oidc.accounts import DEFAULT_EMAIL
from services.sandbox.oidc.authorization import (
    AuthorizationRequest,
    granted_scopes,
    parse_request,
    redirect_location,
    trusted_redirect_uri,
)
from services.sandbox.oidc.consent_page import consent_page
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.provider import Provider
from services.sandbox.pages import page, text


def authorization_answer(
    provider: Provider, form: Form, entry: Entry, *, decision: str | None, action: str
) -> Response:
    """Return the redirect that follows a decision ("approve" or "deny"); without a decision, the consent page, whose
    form posts one to the path `action`.

    What is wrong with the request goes back to the client in the redirect, but to the person on an error page if client
    or redirect URI cannot be trusted or the provider refuses the person. The outcome is written to `entry`.
    """
    try:
        redirect_uri = trusted_redirect_uri(form)
        provider.persona.check_person()
    except SandboxError as problem:
        entry.error = "invalid_request"
        return page("This request cannot be answered", f"<p>{text(problem.message)}</p>", status=problem.status)
    try:
        request = parse_request(provider.persona, form)
        if decision is None:
            return consent_page(provider, request, form, action=action)
        location = _decided(provider, request, form, entry, approved=_approved(decision))
    except OAuthError as problem:
        refusal = provider.persona.translated(problem)
        entry.error = refusal.error
        answer = {"error": refusal.error, "error_description": refusal.description}
        location = redirect_location(provider.persona, redirect_uri=redirect_uri, state=form.get("state"), **answer)
    return RedirectResponse(location, status_code=302)


def _approved(decision: str) -> bool:
    if decision not in {"approve", "deny"}:
        raise OAuthError("invalid_request", "the decision must be approve or deny")
    return decision == "approve"


def _decided(provider: Provider, request: AuthorizationRequest, form: Form, entry: Entry, *, approved: bool) -> str:
    if not approved:
        raise OAuthError("access_denied", "the person denied access")
    account = provider.accounts.get(form.get("account") or request.login_hint or DEFAULT_EMAIL)
    code = provider.new_code(
        account=account,
        redirect_uri=request.redirect_uri,
        scopes=granted_scopes(request.scopes, form),
        nonce=request.nonce,
        code_challenge=request.code_challenge,
        parameters=request.parameters,
    )
    entry.account, entry.committed = account.id, True
    return redirect_location(provider.persona, redirect_uri=request.redirect_uri, state=request.state, code=code.value)
