"""The routes of the imitated Slack, at Slack's paths: the OAuth endpoints, and the methods of the Web API that concern
a token."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.sandbox import endpoints
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.forms import read_form
from services.sandbox.imitations.slack import BOT, team_of, user_id_of
from services.sandbox.ledger import Entry
from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import AccessToken
from services.sandbox.oidc.provider import Provider
from services.sandbox.oidc.token_endpoint import bearer_token

NAME = "slack"
router = APIRouter(prefix="/as/slack.com", include_in_schema=False)


@router.get("/oauth/v2/authorize")
async def ask(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the consent page; with `auto=approve` or `auto=deny`, the redirect that follows this decision."""
    return await endpoints.serve_authorization(request, sandbox, sandbox.imitations[NAME])


@router.post("/oauth/v2/authorize")
async def decide(request: Request, sandbox: CurrentSandbox) -> Response:
    """Answer the form of the consent page with the redirect that follows the decision."""
    return await endpoints.serve_decision(request, sandbox, sandbox.imitations[NAME])


@router.post("/api/oauth.v2.access")
async def token(request: Request, sandbox: CurrentSandbox) -> Response:
    """Exchange a code or a refresh token for tokens."""
    return await endpoints.serve_token(request, sandbox, sandbox.imitations[NAME])


async def _serve_method(
    request: Request, sandbox: CurrentSandbox, operation: str, tell: Callable[[Provider, AccessToken], dict[str, Any]]
) -> Response:
    """Serve a method of the Web API. It takes its access token from the Authorization header, or else from the field
    `token` of a form."""
    provider, persona = sandbox.imitations[NAME], sandbox.imitations[NAME].persona
    field = (await read_form(request)).get("token")
    authorization = request.headers.get("authorization") or (f"Bearer {field}" if field else None)

    def answer(entry: Entry) -> Response:
        presented = bearer_token(provider, authorization, entry=entry)
        body = tell(provider, presented)
        entry.committed = operation == "revoke"
        return persona.encoded({"ok": True, **body})

    return await sandbox.intake.serve(
        provider.party, operation, persona.handler(answer), error_style=persona.scripted_error
    )


def _needs(presented: AccessToken, scope: str) -> None:
    if scope not in presented.scopes:
        granted = ",".join(one.removeprefix(BOT) for one in presented.scopes)
        raise OAuthError("missing_scope", f"{scope} was not granted", members={"needed": scope, "provided": granted})


def _tested(_: Provider, presented: AccessToken) -> dict[str, Any]:
    account = presented.grant.account
    team = team_of(account)
    return {
        "url": f"https://{team['name']}/",
        "team": team["name"],
        "user": account.email.partition("@")[0],
        "team_id": team["id"],
        "user_id": user_id_of(account),
    }


def _identified(_: Provider, presented: AccessToken) -> dict[str, Any]:
    _needs(presented, "identity.basic")
    account = presented.grant.account
    email = {"email": account.email} if "identity.email" in presented.scopes else {}
    user = {"name": account.name, "id": user_id_of(account), **email}
    return {"user": user, "team": {"id": team_of(account)["id"]}}


def _told(provider: Provider, presented: AccessToken) -> dict[str, Any]:
    _needs(presented, "openid")
    return provider.persona.claims(presented.grant.account, presented.scopes)


def _revoked(provider: Provider, presented: AccessToken) -> dict[str, Any]:
    provider.revoke_access_token(presented)
    return {"revoked": True}


@router.post("/api/auth.test", operation_id="auth_test_by_post")
@router.get("/api/auth.test")
async def auth_test(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the person and the workspace of an access token."""
    return await _serve_method(request, sandbox, "userinfo", _tested)


@router.post("/api/users.identity", operation_id="users_identity_by_post")
@router.get("/api/users.identity")
async def users_identity(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the person in the format of the legacy "Sign in with Slack"; needs the scope `identity.basic`."""
    return await _serve_method(request, sandbox, "userinfo", _identified)


@router.post("/api/openid.connect.userInfo", operation_id="openid_user_info_by_post")
@router.get("/api/openid.connect.userInfo")
async def user_info(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the person in the format of OpenID Connect; needs the scope `openid`."""
    return await _serve_method(request, sandbox, "userinfo", _told)


@router.post("/api/auth.revoke", operation_id="auth_revoke_by_post")
@router.get("/api/auth.revoke")
async def revoke(request: Request, sandbox: CurrentSandbox) -> Response:
    """Revoke the access token that the request carries, and those refresh tokens of its grant that have the same
    scopes."""
    return await _serve_method(request, sandbox, "revoke", _revoked)
