"""The provider's endpoints over HTTP, apart from consent and controls."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.sandbox.dependencies import CurrentProvider, CurrentSandbox
from services.sandbox.forms import read_form
from services.sandbox.ledger import fingerprint
from services.sandbox.oidc.client_authentication import presented_client
from services.sandbox.oidc.discovery import metadata
from services.sandbox.oidc.errors import oauth_handler
from services.sandbox.oidc.token_endpoint import OPERATIONS, revocation_answer, token_answer, userinfo_answer

router = APIRouter(prefix="/oidc/{kind}")


@router.get("/.well-known/openid-configuration")
async def discovery(provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """The provider's metadata."""
    return await sandbox.intake.serve(provider.party, "discovery", lambda _: JSONResponse(metadata(provider)))


@router.get("/jwks.json")
async def keys(provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """The keys that sign id_tokens."""
    document = {"keys": [provider.signing_key.jwk]}
    return await sandbox.intake.serve(provider.party, "jwks", lambda _: JSONResponse(document))


@router.post("/token")
async def token(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token."""
    form = await read_form(request)
    authorization = request.headers.get("authorization")
    return await sandbox.intake.serve(
        provider.party,
        OPERATIONS.get(form.get("grant_type") or "", "token.other"),
        oauth_handler(lambda entry: token_answer(provider, form, authorization=authorization, entry=entry)),
        latency_seconds=provider.settings.delay_seconds,
        client=presented_client(authorization, form),
        refresh_token=fingerprint(form.get("refresh_token")),
    )


@router.post("/revoke")
async def revoke(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Revoke the grant behind a token."""
    form = await read_form(request)
    authorization = request.headers.get("authorization")
    return await sandbox.intake.serve(
        provider.party,
        "revoke",
        oauth_handler(lambda entry: revocation_answer(provider, form, authorization=authorization, entry=entry)),
        client=presented_client(authorization, form),
        refresh_token=fingerprint(form.get("token")),
    )


@router.post("/userinfo", operation_id="userinfo_by_post")
@router.get("/userinfo")
async def userinfo(request: Request, provider: CurrentProvider, sandbox: CurrentSandbox) -> Response:
    """Claims about the account of an access token."""
    authorization = request.headers.get("authorization")
    return await sandbox.intake.serve(
        provider.party,
        "userinfo",
        oauth_handler(lambda entry: userinfo_answer(provider, authorization=authorization, entry=entry)),
    )
