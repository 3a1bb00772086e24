"""The steps of the main job (from sign-up to a token read) against a service in this process, so that a test can begin
at the step that it is about."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from services.devstack.main_job import MainJob, Person, expect
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.tests.actors import TESTER


@dataclass
class Journey(MainJob):
    """The main job with the sandbox and the database at hand."""

    sandbox: Sandbox
    container: Container
    owner: "asyncpg.Connection[asyncpg.Record]"

    def headers_of(self, user_id: str, **overrides: Any) -> dict[str, str]:
        """Return the headers of a session of the user; `overrides` are those of the sandbox's `session_token`."""
        return {"Authorization": f"Bearer {self.sandbox.clerk.session_token(user_id, **overrides)}"}

    def ticket(self, started: dict[str, Any]) -> str:
        """Return the ticket that the callback gives the browser; `started` is the answer that began the connect
        attempt."""
        return self.container.resources.signer.flow_ticket(UUID(started["flow_id"]))

    async def webhook(self, event_type: str, user: dict[str, Any], **options: Any) -> httpx.Response:
        """Send a signed event of Clerk, and return the answer."""
        headers, body = self.sandbox.clerk.signed_event(event_type, user, **options)
        return await self.client.post("/webhooks/clerk", headers=headers, content=body)

    async def sign_up(self, email: str = "ada@example.com", **fields: Any) -> Person:
        """Make a user of Clerk and tell the service of them by a webhook, without the network."""
        user = self.sandbox.clerk.create_user(email=email, first_name="Ada", last_name="Example", **fields)
        expect(await self.webhook("user.created", user), 200)
        return Person(user["id"], email, self.headers_of(user["id"]))

    async def service_key(
        self,
        provider: str = "sandbox-static",
        *,
        name: str = "calendar-sync",
        scopes: list[str] | None = None,
        reason_required: bool = False,
    ) -> dict[str, str]:
        """Make a sibling service with a grant, and return the headers with its key."""
        key = await self.container.service_clients.create_service(TESTER, name)
        await self.container.service_clients.grant(
            TESTER, name, provider, scopes=scopes, reason_required=reason_required
        )
        return {"Authorization": f"Bearer {key}"}

    async def age_tokens(self, *, seconds_left: float = -1) -> None:
        """Give every access token `seconds_left` of remaining life (by default none), as if it had been issued an hour
        ago."""
        await self.owner.execute(
            "UPDATE encrypted_tokens SET expires_at = now() + make_interval(secs => $1),"
            " issued_at = now() - interval '1 hour' WHERE kind = 'access'",
            seconds_left,
        )
