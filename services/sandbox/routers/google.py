"""The routes of the imitated Google, at Google's paths."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.forms import read_form, read_query
from services.sandbox.ledger import Entry, fingerprint
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import CLIENT_ID

NAME = "google"
router = APIRouter(prefix="/as", include_in_schema=False)


@router.get("/accounts.google.com/.well-known/openid-configuration")
async def discovery(sandbox: CurrentSandbox) -> Response:
    """Serve Google's metadata."""
    base = f"{sandbox.base_url}/as"
    document = {
        "issuer": f"{base}/accounts.google.com",
        "authorization_endpoint": f"{base}/accounts.google.com/o/oauth2/v2/auth",
        "token_endpoint": f"{base}/oauth2.googleapis.com/token",
        "userinfo_endpoint": f"{base}/openidconnect.googleapis.com/v1/userinfo",
        "revocation_endpoint": f"{base}/oauth2.googleapis.com/revoke",
        "jwks_uri": f"{base}/www.googleapis.com/oauth2/v3/certs",
        "scopes_supported": ["openid", "email", "profile"],
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
    }
    return await endpoints.serve_document(sandbox, sandbox.imitations[NAME], "discovery", document)


@router.get("/www.googleapis.com/oauth2/v3/certs")
async def keys(sandbox: CurrentSandbox) -> Response:
    """Serve the public keys that verify ID tokens."""
    return await endpoints.serve_keys(sandbox, sandbox.imitations[NAME])


@router.get("/accounts.google.com/o/oauth2/v2/auth")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post("/accounts.google.com/o/oauth2/v2/auth")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post("/oauth2.googleapis.com/token")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


@router.get("/openidconnect.googleapis.com/v1/userinfo")
async def userinfo(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the claims about the account of an access token."""
    return await endpoints.serve_userinfo(request, sandbox, sandbox.imitations[NAME])


@router.post("/oauth2.googleapis.com/revoke")
async def revoke(request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke everything that the account of a token granted to the client, which need not authenticate. A token that is
    unknown, or whose consent has ended, is refused."""
    provider = sandbox.imitations[NAME]
    form, query = await read_form(request), read_query(request)
    presented = form.get("token") or query.get("token")
    return await sandbox.intake.serve(
        provider.party,
        "revoke",
        provider.persona.handler(lambda entry: _revoked(provider, presented, entry)),
        error_style=provider.persona.scripted_error,
        client=form.get("client_id"),
        refresh_token=fingerprint(presented),
    )


def _revoked(provider: Provider, presented: str | None, entry: Entry) -> Response:
    grant = provider.grant_of(presented or "", client_id=CLIENT_ID)
    if grant is None or not grant.alive:
        raise OAuthError("invalid_token", "Token expired or revoked", cause="unknown")
    provider.revoke(presented or "", client_id=CLIENT_ID)
    entry.committed, entry.account = True, grant.account.id
    return JSONResponse({})
