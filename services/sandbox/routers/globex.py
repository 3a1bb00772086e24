"""Globex's paths, as the documentation's provider file names them for the region `eu`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox

NAME = "globex"
router = APIRouter(prefix="/as", include_in_schema=False)


@router.get("/id.globex.example/eu/oauth2/authorize")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto`, decide at once."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/authorize")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Take the decision that was made on the consent page."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/token")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


@router.post("/id.globex.example/eu/oauth2/revoke")
async def revoke(request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke everything that the account granted to the client."""
    return await endpoints.serve_revocation(request, sandbox, sandbox.imitations[NAME])


@router.get("/api.globex.example/me")
async def me(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the profile of an access token's account."""
    return await endpoints.serve_userinfo(request, sandbox, sandbox.imitations[NAME])
