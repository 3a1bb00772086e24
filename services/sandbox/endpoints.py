"""The endpoints that providers have in common, whatever their paths are. Each records the call in the ledger (the
sandbox's record of all calls), and applies scripted faults."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.sandbox.forms import read_form, read_query
from services.sandbox.ledger import fingerprint
from services.sandbox.oidc.client_authentication import presented_client
from services.sandbox.oidc.consent import authorization_answer
from services.sandbox.oidc.provider import Provider
from services.sandbox.oidc.token_endpoint import OPERATIONS, revocation_answer, token_answer, userinfo_answer
from services.sandbox.state import Sandbox


async def serve_document(sandbox: Sandbox, provider: Provider, operation: str, document: dict[str, Any]) -> Response:
    """Serve a document that is the same for everybody: metadata or keys."""
    return await sandbox.intake.serve(provider.party, operation, lambda _: JSONResponse(document))


async def serve_keys(sandbox: Sandbox, provider: Provider) -> Response:
    """Serve the keys that sign ID tokens."""
    return await serve_document(sandbox, provider, "jwks", {"keys": [provider.signing_key.jwk]})


async def serve_authorization(request: Request, sandbox: Sandbox, provider: Provider) -> Response:
    """Serve the consent page. With `auto=approve` or `auto=deny` in the query, answer instead with the redirect that
    follows this decision, taken for the account that `account` or `login_hint` names, or without either for the default
    account."""
    form = read_query(request)
    return await sandbox.intake.serve(
        provider.party,
        "authorize",
        lambda entry: authorization_answer(provider, form, entry, decision=form.get("auto"), action=request.url.path),
        client=form.get("client_id"),
    )


async def serve_decision(request: Request, sandbox: Sandbox, provider: Provider) -> Response:
    """Answer the form of the consent page (the authorization request's parameters, `decision`, `account` and
    `granted_scope`) with the redirect that follows the decision."""
    form = await read_form(request)
    decision = form.get("decision") or "missing"
    return await sandbox.intake.serve(
        provider.party,
        "authorize.decision",
        lambda entry: authorization_answer(provider, form, entry, decision=decision, action=request.url.path),
        client=form.get("client_id"),
    )


async def serve_token(request: Request, sandbox: Sandbox, provider: Provider) -> Response:
    """Exchange a code or a refresh token for tokens."""
    form, persona = await read_form(request), provider.persona
    authorization, accept = request.headers.get("authorization"), request.headers.get("accept", "")
    return await sandbox.intake.serve(
        provider.party,
        OPERATIONS.get(persona.grant_type(form) or "", "token.other"),
        persona.handler(
            lambda entry: token_answer(provider, form, authorization=authorization, entry=entry, accept=accept),
            accept=accept,
        ),
        latency_seconds=provider.settings.delay_seconds,
        error_style=lambda fault: persona.scripted_error(fault, accept=accept),
        client=presented_client(authorization, form),
        refresh_token=fingerprint(form.get("refresh_token")),
    )


async def serve_revocation(request: Request, sandbox: Sandbox, provider: Provider) -> Response:
    """Revoke the consent under which a token was issued, and at some providers all consents of its account."""
    form = await read_form(request)
    authorization = request.headers.get("authorization")
    return await sandbox.intake.serve(
        provider.party,
        "revoke",
        provider.persona.handler(
            lambda entry: revocation_answer(provider, form, authorization=authorization, entry=entry)
        ),
        error_style=provider.persona.scripted_error,
        client=presented_client(authorization, form),
        refresh_token=fingerprint(form.get("token")),
    )


async def serve_userinfo(request: Request, sandbox: Sandbox, provider: Provider) -> Response:
    """Serve the claims about the account of an access token."""
    authorization = request.headers.get("authorization")
    return await sandbox.intake.serve(
        provider.party,
        "userinfo",
        provider.persona.handler(lambda entry: userinfo_answer(provider, authorization=authorization, entry=entry)),
        error_style=provider.persona.scripted_error,
    )
