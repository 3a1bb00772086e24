"""The routes of the sandbox's plain providers, one for each refresh kind (what becomes of a refresh token that was
used)."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentProvider, CurrentSandbox
from services.sandbox.oidc.discovery import metadata

router = APIRouter(prefix="/oidc/{kind}")


@router.get("/.well-known/openid-configuration")
async def discovery(provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Serve the provider's metadata."""
    return await endpoints.serve_document(sandbox, provider, "discovery", metadata(provider))


@router.get("/jwks.json")
async def keys(provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Serve the public keys that verify ID tokens."""
    return await endpoints.serve_keys(sandbox, provider)


@router.get("/authorize")
async def ask(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, provider)


@router.post("/authorize")
async def decide(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, provider)


@router.post("/token")
async def token(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, provider)


@router.post("/revoke")
async def revoke(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Revoke the consent under which a token was issued; 200 also for an unknown token."""
    return await endpoints.serve_revocation(request, sandbox, provider)


@router.post("/userinfo", operation_id="userinfo_by_post")
@router.get("/userinfo")
async def userinfo(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Serve the claims about the account of an access token."""
    return await endpoints.serve_userinfo(request, sandbox, provider)
