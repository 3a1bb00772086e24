"""The routes of the imitated Globex, an invented provider, at the paths that the provider file in the documentation
names for the region `eu`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox

NAME = "globex"
router = APIRouter(prefix="/as", include_in_schema=False)


@router.get("/id.globex.example/eu/oauth2/authorize")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/authorize")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/token")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/revoke")
async def revoke(request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke everything that a token's account granted to the client."""
    return await endpoints.serve_revocation(request, sandbox, sandbox.imitations[NAME])


@router.get("/api.globex.example/me")
async def me(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the profile of an access token's account."""
    return await endpoints.serve_userinfo(request, sandbox, sandbox.imitations[NAME])
