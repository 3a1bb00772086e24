"""The client's side of the authorization code flow, of refreshing and of user info at the sandbox's plain providers,
for tests."""

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET

BASE_URL = "http://sandbox"
REDIRECT_URI = "http://testserver/oauth/callback/sandbox-strict"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
CREDENTIALS = httpx.BasicAuth(CLIENT_ID, CLIENT_SECRET)


def request_parameters(**changes: str) -> dict[str, str]:
    """Return the parameters of a valid authorization request; a change to "" leaves that parameter out."""
    parameters = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": "openid email offline_access calendar.read",
        "state": "state-1",
        "nonce": "nonce-1",
        "prompt": "consent",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    } | changes
    return {name: value for name, value in parameters.items() if value}


def redirect_answer(response: httpx.Response) -> dict[str, str]:
    """Return the query parameters of the URL to which `response`, a redirect with 302, leads."""
    assert response.status_code == 302, response.text
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


async def decide(client: httpx.AsyncClient, kind: str = "strict", **fields: str) -> dict[str, str]:
    """Post the consent page's form, by default with an approval, and return the query parameters of the redirect, such
    as `code`. `fields` change the form."""
    form = request_parameters(decision="approve", account="ada@example.com") | fields
    return redirect_answer(await client.post(f"/oidc/{kind}/authorize", data=form))


async def exchange(client: httpx.AsyncClient, code: str, kind: str = "strict", **changes: str) -> httpx.Response:
    """Send a code to the token endpoint and return the response. `changes` change the form."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
    } | changes
    return await client.post(f"/oidc/{kind}/token", data=form, auth=CREDENTIALS)


async def connect(client: httpx.AsyncClient, kind: str = "strict", **fields: str) -> dict[str, Any]:
    """Go through the whole code flow and return the tokens. `fields` change the consent page's form."""
    response = await exchange(client, (await decide(client, kind, **fields))["code"], kind)
    assert response.status_code == 200, response.text
    tokens: dict[str, Any] = response.json()
    return tokens


async def refresh(
    client: httpx.AsyncClient, refresh_token: str, kind: str = "strict", **changes: str
) -> httpx.Response:
    """Send a refresh token to the token endpoint and return the response. `changes` change the form."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token} | changes
    return await client.post(f"/oidc/{kind}/token", data=form, auth=CREDENTIALS)


async def userinfo(client: httpx.AsyncClient, access_token: str, kind: str = "strict") -> httpx.Response:
    """Ask for the claims about an access token's account, and return the response."""
    return await client.get(f"/oidc/{kind}/userinfo", headers={"Authorization": f"Bearer {access_token}"})
