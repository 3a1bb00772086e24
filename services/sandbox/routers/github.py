"""The routes of the imitated GitHub, at GitHub's paths: the OAuth endpoints with their metadata, and the part of the
REST API that identifies accounts and revokes tokens."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.faults import Fault
from services.sandbox.forms import Form
from services.sandbox.imitations.github import GitHubSettings, number_of
from services.sandbox.intake import Handler
from services.sandbox.ledger import Entry
from services.sandbox.oidc.client_authentication import authenticate_client
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import AccessToken
from services.sandbox.oidc.provider import Provider
from services.sandbox.oidc.token_endpoint import bearer_token

NAME = "github"
_OF_EMAILS = frozenset({"user", "user:email"})
router = APIRouter(prefix="/as", include_in_schema=False)


@router.get("/github.com/.well-known/oauth-authorization-server/login/oauth")
async def discovery(sandbox: CurrentSandbox) -> Response:
    """Serve GitHub's metadata (RFC 8414)."""
    provider = sandbox.imitations[NAME]
    document = {
        "issuer": provider.issuer,
        "authorization_endpoint": f"{provider.issuer}/authorize",
        "token_endpoint": f"{provider.issuer}/access_token",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }
    return await endpoints.serve_document(sandbox, provider, "discovery", document)


@router.get("/github.com/login/oauth/authorize")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post("/github.com/login/oauth/authorize")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post("/github.com/login/oauth/access_token")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


def _api_error(status: int, message: str) -> JSONResponse:
    """Return an error in the format of the REST API, which is not that of the OAuth endpoints."""
    return JSONResponse({"message": message, "documentation_url": "https://docs.github.com/rest"}, status)


def _scripted_api_error(fault: Fault) -> Response:
    return _api_error(fault.status or 401, fault.error)


def _api_handler(answer: Callable[[Entry], Response]) -> Handler:
    def handle(entry: Entry) -> Response:
        try:
            return answer(entry)
        except OAuthError as refusal:
            entry.error, entry.note = refusal.error, refusal.description
            return _api_error(401, "Bad credentials")

    return handle


async def _serve_api(
    request: Request, sandbox: CurrentSandbox, operation: str, tell: Callable[[Provider, AccessToken], Response]
) -> Response:
    provider, authorization = sandbox.imitations[NAME], request.headers.get("authorization")

    def answer(entry: Entry) -> Response:
        presented = bearer_token(provider, authorization, entry=entry)
        response = tell(provider, presented)
        response.headers["X-OAuth-Scopes"] = ", ".join(presented.scopes)
        return response

    return await sandbox.intake.serve(provider.party, operation, _api_handler(answer), error_style=_scripted_api_error)


def _profile(provider: Provider, presented: AccessToken) -> Response:
    account, settings = presented.grant.account, provider.settings
    public = isinstance(settings, GitHubSettings) and settings.public_email
    return JSONResponse(
        {
            "login": account.email.partition("@")[0],
            "id": number_of(account),
            "type": "User",
            "name": account.name,
            "email": account.email if public else None,
        }
    )


def _addresses(_: Provider, presented: AccessToken) -> Response:
    if not _OF_EMAILS & set(presented.scopes):
        return _api_error(404, "Not Found")
    login, _at, domain = presented.grant.account.email.partition("@")
    hidden = {"email": f"{login}@users.noreply.{domain}", "primary": False, "verified": True, "visibility": None}
    primary = {"email": presented.grant.account.email, "primary": True, "verified": True, "visibility": "private"}
    unproved = {"email": f"{login}.old@{domain}", "primary": False, "verified": False, "visibility": None}
    return JSONResponse([hidden, unproved, primary])


@router.get("/api.github.com/user")
async def user(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the profile of an access token's account; `email` is null unless the setting `public_email` is on."""
    return await _serve_api(request, sandbox, "userinfo", _profile)


@router.get("/api.github.com/user/emails")
async def emails(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve all addresses of an access token's account, of which the primary one is not the first; 404 without the
    scope `user` or `user:email`."""
    return await _serve_api(request, sandbox, "userinfo.emails", _addresses)


@router.delete("/api.github.com/applications/{client_id}/grant")
async def delete_grant(client_id: str, request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke everything that an account granted to the app. The JSON body names one of the account's access tokens: 404
    if the token does not work, 422 without one."""
    return await _serve_deletion(request, sandbox, client_id, _end_account)


@router.delete("/api.github.com/applications/{client_id}/token")
async def delete_token(client_id: str, request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke the access token in the JSON body, and those refresh tokens of its grant that have the same scopes. 404
    for a token that does not work, 422 without one."""
    return await _serve_deletion(request, sandbox, client_id, Provider.revoke_access_token)


def _end_account(provider: Provider, presented: AccessToken) -> None:
    provider.revoke_account(presented.grant.account.id, "revoked_by_client")


async def _serve_deletion(
    request: Request, sandbox: CurrentSandbox, client_id: str, end: Callable[[Provider, AccessToken], None]
) -> Response:
    provider, authorization = sandbox.imitations[NAME], request.headers.get("authorization")
    presented = _access_token_in(await request.body())

    def answer(entry: Entry) -> Response:
        if authenticate_client(authorization, Form([])) != client_id:
            return _api_error(404, "Not Found")
        if presented is None:
            return _api_error(422, "Validation Failed")
        token = _live(provider, presented)
        if token is None:
            return _api_error(404, "Not Found")
        end(provider, token)
        entry.committed, entry.account = True, token.grant.account.id
        return Response(status_code=204)

    return await sandbox.intake.serve(
        provider.party, "revoke", _api_handler(answer), error_style=_scripted_api_error, client=client_id
    )


def _access_token_in(body: bytes) -> str | None:
    try:
        fields: Any = json.loads(body)
    except ValueError:
        return None
    value = fields.get("access_token") if isinstance(fields, dict) else None
    return value if isinstance(value, str) else None


def _live(provider: Provider, value: str) -> AccessToken | None:
    try:
        return provider.bearer(value)
    except OAuthError:
        return None
