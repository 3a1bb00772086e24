"""The client's side of the code flow, refreshes and API calls at the sandbox's imitations of real providers, for
tests."""

from dataclasses import dataclass
from typing import Any

import httpx

from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.sandbox.tests.dance import CREDENTIALS, REDIRECT_URI, VERIFIER, redirect_answer, request_parameters

JSON = "application/json"
SECRET = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


@dataclass(frozen=True, slots=True)
class Imitated:
    """One imitation of a provider, with the calls that a web application makes to it, and its controls."""

    client: httpx.AsyncClient
    name: str
    authorization_path: str
    token_path: str
    request: dict[str, str]
    """Parameters of the authorization request that differ from one imitation to another; "" leaves a parameter out."""

    async def decide(self, **fields: str) -> dict[str, str]:
        """Post the consent page's form, by default with an approval, and return the query parameters of the redirect,
        such as `code`. `fields` change the form; a change to "" leaves a field out."""
        form = request_parameters(**self.request) | {"decision": "approve", "account": "ada@example.com"} | fields
        form = {name: value for name, value in form.items() if value}
        return redirect_answer(await self.client.post(self.authorization_path, data=form))

    async def exchange(self, code: str, *, accept: str = JSON, **changes: str) -> httpx.Response:
        """Send a code to the token endpoint and return the response. `changes` change the form."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT_URI,
            "code_verifier": VERIFIER if self.request.get("code_challenge", VERIFIER) else "",
        }
        sent = form | SECRET | changes
        return await self.client.post(self.token_path, data=sent, headers={"Accept": accept})

    async def connect(self, **fields: str) -> dict[str, Any]:
        """Go through the whole code flow and return the tokens. `fields` change the consent page's form."""
        response = await self.exchange((await self.decide(**fields))["code"])
        assert response.status_code == 200, response.text
        tokens: dict[str, Any] = response.json()
        return tokens

    async def refresh(self, refresh_token: str, **changes: str) -> httpx.Response:
        """Send a refresh token to the token endpoint and return the response. `changes` change the form."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token} | SECRET | changes
        return await self.client.post(self.token_path, data=form, headers={"Accept": JSON})

    async def get(self, path: str, access_token: str) -> httpx.Response:
        """Send GET with a bearer token to `path` below `/as/`, such as that of an API, and return the response."""
        return await self.client.get(f"/as/{path}", headers={"Authorization": f"Bearer {access_token}"})

    async def control(self, operation: str, **body: Any) -> dict[str, Any]:
        """Post `body` to `operation` of the imitation's controls and return the answer, which must be a success."""
        response = await self.client.post(f"/as/_control/{self.name}/{operation}", json=body)
        assert response.status_code in {200, 201}, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def delete(self, path: str, body: Any, credentials: httpx.BasicAuth = CREDENTIALS) -> httpx.Response:
        """Send DELETE with a JSON body to `path` below `/as/`, by default authenticated as the client."""
        return await self.client.request("DELETE", f"/as/{path}", json=body, auth=credentials)


def google(client: httpx.AsyncClient) -> Imitated:
    """Return the imitation of Google, with a request that gets a refresh token only at an account's first consent."""
    request = {"scope": "openid email", "access_type": "offline", "prompt": ""}
    authorization, token = "/as/accounts.google.com/o/oauth2/v2/auth", "/as/oauth2.googleapis.com/token"
    return Imitated(client, "google", authorization, token, request)


def microsoft(client: httpx.AsyncClient, tenant: str = "common") -> Imitated:
    """Return the imitation of Microsoft, with a request that gets a refresh token."""
    path = f"/as/login.microsoftonline.com/{tenant}/oauth2/v2.0"
    request = {"scope": "openid profile email offline_access Mail.Read", "prompt": ""}
    return Imitated(client, "microsoft", f"{path}/authorize", f"{path}/token", request)


def github(client: httpx.AsyncClient) -> Imitated:
    """Return the imitation of GitHub, with an ordinary request."""
    path = "/as/github.com/login/oauth"
    return Imitated(client, "github", f"{path}/authorize", f"{path}/access_token", {"scope": "repo user:email"})


def slack(client: httpx.AsyncClient) -> Imitated:
    """Return the imitation of Slack, with a request for a person's token only; like those of server apps, it is without
    PKCE."""
    request = {"scope": "", "user_scope": "users:read,channels:history", "code_challenge": ""}
    authorization, token = "/as/slack.com/oauth/v2/authorize", "/as/slack.com/api/oauth.v2.access"
    return Imitated(client, "slack", authorization, token, request | {"code_challenge_method": ""})
