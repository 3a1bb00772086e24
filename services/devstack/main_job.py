"""The service's main job over HTTP, from sign-up to a token read, step by step; for the demo, tests and benchmarks."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx

from services.devstack.errors import DevstackError


class MainJobError(DevstackError):
    """Failure of a step of the main job; the message says what was wrong, such as an unexpected response."""


@dataclass
class Person:
    """A user of the product: their id (the same at Clerk and at the service), their e-mail (the same at the provider),
    and the headers of their session."""

    id: str
    email: str
    headers: dict[str, str]


def expect(response: httpx.Response, *statuses: int) -> httpx.Response:
    """Return the response if its status is one of `statuses`. Raises MainJobError otherwise."""
    if response.status_code not in statuses:
        request = f"{response.request.method} {response.request.url.path}"
        raise MainJobError(f"{request} answered {response.status_code}: {response.text[:500]}")
    return response


def flow_ticket(returned: httpx.Response) -> str:
    """Return the `flow` parameter of the return URL to which the callback sent the browser."""
    query = parse_qs(urlsplit(returned.headers["location"]).query)
    return query["flow"][0]


@dataclass
class MainJob:
    """Steps of the main job; `client` speaks to the service, `browser` to the sandbox.

    A step that does not return the response itself raises MainJobError if the response is not the expected one.
    """

    client: httpx.AsyncClient
    browser: httpx.AsyncClient

    async def sign_up(self, email: str = "ada@example.com", **fields: Any) -> Person:
        """Sign a person up at Clerk, which notifies the service by a signed webhook, and return them with a session.
        `fields` are sent to Clerk together with the e-mail address."""
        body = {"email": email, "first_name": "Ada", "last_name": "Example", **fields}
        answer = expect(await self.browser.post("/clerk/_control/users", json=body), 201).json()
        if answer["webhook_accepted"] is not True:
            raise MainJobError("the service did not accept Clerk's user.created webhook")
        user_id = answer["user"]["id"]
        return Person(user_id, email, await self.session(user_id))

    async def session(self, user_id: str) -> dict[str, str]:
        """Return headers with a new Clerk session token, good for a minute."""
        answer = await self.browser.post("/clerk/_control/session-tokens", json={"user_id": user_id})
        return {"Authorization": f"Bearer {expect(answer, 200, 201).json()['token']}"}

    async def authorize(self, person: Person, provider: str = "sandbox-static", **body: Any) -> dict[str, Any]:
        """Start a connect attempt for the person; return `authorization_url`, `flow_id` and `expires_at`."""
        path = f"/users/me/integrations/{provider}/authorize"
        response = await self.client.post(path, headers=person.headers, json=body)
        started: dict[str, Any] = expect(response, 201).json()
        return started

    async def consent(self, authorization_url: str, *, account: str, decision: str = "approve") -> str:
        """Answer the provider's consent page with `decision`, as the person with the e-mail `account`; return the URL
        to which the provider sends the browser."""
        url = urlsplit(authorization_url)
        form = {**dict(parse_qsl(url.query)), "decision": decision, "account": account}
        response = expect(await self.browser.post(url.path, data=form), 302, 303)
        return response.headers["location"]

    async def callback(self, location: str) -> httpx.Response:
        """Follow the provider's redirect to the service, as the browser does; return the service's response."""
        url = urlsplit(location)
        return await self.client.get(f"{url.path}?{url.query}")

    async def confirm(self, person: Person, provider: str, **body: Any) -> httpx.Response:
        """Confirm a connect attempt in the person's name; return the service's response."""
        return await self.client.post(f"/users/me/integrations/{provider}", headers=person.headers, json=body)

    async def connect(
        self, person: Person, provider: str = "sandbox-static", *, scopes: tuple[str, ...] = ("calendar.read",)
    ) -> dict[str, Any]:
        """Connect an account, from the start of a connect attempt to its confirmation, and return the integration."""
        started = await self.authorize(person, provider, scopes=list(scopes))
        location = await self.consent(started["authorization_url"], account=person.email)
        returned = expect(await self.callback(location), 303)
        response = await self.confirm(person, provider, flow=flow_ticket(returned))
        connection: dict[str, Any] = expect(response, 201).json()
        return connection

    async def get_token(
        self, key: dict[str, str], user_id: str, provider: str = "sandbox-static", **body: Any
    ) -> httpx.Response:
        """Ask for a token as a sibling service does, and return the response; `key` are the headers with its service
        key."""
        document = {"user_id": user_id, "provider": provider, **body}
        return await self.client.post("/internal/tokens/get", headers=key, json=document)

    async def userinfo(self, access_token: str, kind: str = "static") -> httpx.Response:
        """Ask the sandbox's provider of the refresh kind `kind` for the claims about the token's account; return its
        response."""
        return await self.browser.get(f"/oidc/{kind}/userinfo", headers={"Authorization": f"Bearer {access_token}"})

    async def ledger(self, party: str, operation: str) -> list[dict[str, Any]]:
        """Return the calls to `party` for `operation` that the sandbox has recorded."""
        answer = await self.browser.get("/_ledger", params={"party": party, "operation": operation})
        items: list[dict[str, Any]] = expect(answer, 200).json()["items"]
        return items
