"""The steps of the main job, each over HTTP, for tests to start from where they are interested."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import asyncpg
import httpx

from services.sandbox.state import Sandbox
from services.user_management.container import Container


@dataclass
class Person:
    """A user with their identity at Clerk and at a provider."""

    id: str
    email: str
    headers: dict[str, str]


@dataclass
class Journey:
    """`client` speaks to the service, `browser` to the sandbox."""

    client: httpx.AsyncClient
    browser: httpx.AsyncClient
    sandbox: Sandbox
    container: Container
    owner: "asyncpg.Connection[asyncpg.Record]"

    def headers_of(self, user_id: str, **overrides: Any) -> dict[str, str]:
        """A session of the user."""
        return {"Authorization": f"Bearer {self.sandbox.clerk.session_token(user_id, **overrides)}"}

    async def webhook(self, event_type: str, user: dict[str, Any], **options: Any) -> httpx.Response:
        """A signed Clerk event."""
        headers, body = self.sandbox.clerk.signed_event(event_type, user, **options)
        return await self.client.post("/webhooks/clerk", headers=headers, content=body)

    async def sign_up(self, email: str = "ada@example.com", **fields: Any) -> Person:
        """A user whom Clerk told us of."""
        user = self.sandbox.clerk.create_user(email=email, first_name="Ada", last_name="Example", **fields)
        response = await self.webhook("user.created", user)
        assert response.status_code == 200, response.text
        return Person(user["id"], email, self.headers_of(user["id"]))

    async def authorize(self, person: Person, provider: str = "sandbox-static", **body: Any) -> dict[str, Any]:
        """Start a connection."""
        path = f"/users/me/integrations/{provider}/authorize"
        response = await self.client.post(path, headers=person.headers, json=body)
        assert response.status_code == 201, response.text
        started: dict[str, Any] = response.json()
        return started

    async def consent(self, authorization_url: str, *, account: str, decision: str = "approve") -> str:
        """Decide at the provider; returns where it sends the browser."""
        url = urlsplit(authorization_url)
        form = {**dict(parse_qsl(url.query)), "decision": decision, "account": account}
        response = await self.browser.post(url.path, data=form)
        assert response.status_code in (302, 303), response.text
        return response.headers["location"]

    async def callback(self, location: str) -> httpx.Response:
        """Follow the provider's redirect to the service."""
        url = urlsplit(location)
        return await self.client.get(f"{url.path}?{url.query}")

    async def confirm(self, person: Person, provider: str, **body: Any) -> httpx.Response:
        """Finish a connection."""
        return await self.client.post(f"/users/me/integrations/{provider}", headers=person.headers, json=body)

    async def connect(
        self, person: Person, provider: str = "sandbox-static", *, scopes: tuple[str, ...] = ("calendar.read",)
    ) -> dict[str, Any]:
        """The whole way from authorize to a connection."""
        started = await self.authorize(person, provider, scopes=list(scopes))
        returned = await self.callback(await self.consent(started["authorization_url"], account=person.email))
        assert returned.status_code == 303, returned.text
        assert parse_qs(urlsplit(returned.headers["location"]).query) == {"flow": [started["flow_id"]]}
        response = await self.confirm(person, provider, flow_id=started["flow_id"])
        assert response.status_code == 201, response.text
        connection: dict[str, Any] = response.json()
        return connection

    async def service_key(
        self,
        provider: str = "sandbox-static",
        *,
        name: str = "calendar-sync",
        scopes: list[str] | None = None,
        reason_required: bool = False,
    ) -> dict[str, str]:
        """Headers of a new sibling service with a grant."""
        key = await self.container.service_clients.create_service(name)
        await self.container.service_clients.grant(name, provider, scopes=scopes, reason_required=reason_required)
        return {"Authorization": f"Bearer {key}"}

    async def get_token(
        self, key: dict[str, str], user_id: str, provider: str = "sandbox-static", **body: Any
    ) -> httpx.Response:
        """What a sibling service does."""
        document = {"user_id": user_id, "provider": provider, **body}
        return await self.client.post("/internal/tokens/get", headers=key, json=document)

    async def age_tokens(self, *, seconds_left: float = -1) -> None:
        """Move the end of every access token to `seconds_left` from now."""
        await self.owner.execute(
            "UPDATE encrypted_tokens SET expires_at = now() + make_interval(secs => $1),"
            " issued_at = now() - interval '1 hour' WHERE kind = 'access'",
            seconds_left,
        )

    async def userinfo(self, access_token: str, kind: str = "static") -> httpx.Response:
        """Use a token at the provider."""
        return await self.browser.get(f"/oidc/{kind}/userinfo", headers={"Authorization": f"Bearer {access_token}"})
