"""The routes of the imitated Microsoft, at Microsoft's paths. There is none for revoking a token."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.imitations.microsoft import object_id_of, tenant_of
from services.sandbox.ledger import Entry
from services.sandbox.oidc.accounts import Account
from services.sandbox.oidc.token_endpoint import bearer_token

NAME = "microsoft"
_LOGIN = "/login.microsoftonline.com/{tenant}"
_MULTI_TENANT = frozenset({"common", "organizations"})
router = APIRouter(prefix="/as", include_in_schema=False)


@router.get(f"{_LOGIN}/v2.0/.well-known/openid-configuration")
async def discovery(tenant: str, sandbox: CurrentSandbox) -> Response:
    """Serve Microsoft's metadata; the issuer for `common` and `organizations` is a template with `{tenantid}`."""
    login = f"{sandbox.base_url}/as/login.microsoftonline.com"
    issuer_tenant = "{tenantid}" if tenant in _MULTI_TENANT else tenant
    document: dict[str, Any] = {
        "issuer": f"{login}/{issuer_tenant}/v2.0",
        "authorization_endpoint": f"{login}/{tenant}/oauth2/v2.0/authorize",
        "token_endpoint": f"{login}/{tenant}/oauth2/v2.0/token",
        "userinfo_endpoint": f"{sandbox.base_url}/as/graph.microsoft.com/oidc/userinfo",
        "jwks_uri": f"{login}/{tenant}/discovery/v2.0/keys",
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
    }
    return await endpoints.serve_document(sandbox, sandbox.imitations[NAME], "discovery", document)


@router.get(f"{_LOGIN}/discovery/v2.0/keys")
async def keys(sandbox: CurrentSandbox) -> Response:
    """Serve the public keys that verify ID tokens."""
    return await endpoints.serve_keys(sandbox, sandbox.imitations[NAME])


@router.get(f"{_LOGIN}/oauth2/v2.0/authorize")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post(f"{_LOGIN}/oauth2/v2.0/authorize")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post(f"{_LOGIN}/oauth2/v2.0/token")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


@router.get("/graph.microsoft.com/oidc/userinfo")
async def userinfo(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the claims about the account of an access token."""
    return await endpoints.serve_userinfo(request, sandbox, sandbox.imitations[NAME])


@router.get("/graph.microsoft.com/v1.0/me")
async def me(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the profile of an access token's account, as Microsoft Graph does."""
    provider = sandbox.imitations[NAME]
    authorization = request.headers.get("authorization")

    def answer(entry: Entry) -> Response:
        return JSONResponse(_profile(bearer_token(provider, authorization, entry=entry).grant.account))

    return await sandbox.intake.serve(provider.party, "userinfo.me", provider.persona.handler(answer))


def _profile(account: Account) -> dict[str, str]:
    return {
        "id": object_id_of(account),
        "displayName": account.name,
        "mail": account.email,
        "userPrincipalName": f"{account.id}@{tenant_of(account)}",
    }
