"""Who may call what: every route of the application under every kind of credential."""

from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from services.devstack.main_job import flow_ticket
from services.sandbox.clerk.webhooks import encode_event
from services.user_management.tests.journey import Journey
from services.user_management.tests.routes import all_routes, documented_routes, public_routes
from services.user_management.tests.scenes import Connected, Headers

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

SUBJECTS = (
    "anonymous",
    "owner",
    "other user",
    "suspended user",
    "deleted user",
    "service key",
    "revoked key",
    "expired JWT",
    "wrong issuer",
    "wrong azp",
    "sts pending",
    "wrong signature",
    "alg none",
    "alg HS256",
    "signed webhook",
)


def _row(*statuses: int) -> dict[str, int]:
    return dict(zip(SUBJECTS, statuses, strict=True))


# fmt: off
MATRIX: dict[str, dict[str, int]] = {
    # anonymous, owner, other, suspended, deleted | key, revoked | expired, iss, azp, pending, forged, none, HS | signed
    "GET /health":
        _row(200, 200, 200, 200, 200,  200, 200,  200, 200, 200, 200, 200, 200, 200,  200),
    "GET /ready":
        _row(200, 200, 200, 200, 200,  200, 200,  200, 200, 200, 200, 200, 200, 200,  200),
    "GET /oauth/callback/{provider}":
        _row(303, 303, 303, 303, 303,  303, 303,  303, 303, 303, 303, 303, 303, 303,  303),
    "GET /users/{user_id}":
        _row(401, 200, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "GET /providers":
        _row(401, 200, 200, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "GET /users/{user_id}/integrations":
        _row(401, 200, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "GET /users/{user_id}/integrations/{provider}":
        _row(401, 200, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "GET /users/{user_id}/integrations/{provider}/activity":
        _row(401, 200, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "POST /users/{user_id}/integrations/{provider}/authorize":
        _row(401, 201, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "POST /users/{user_id}/integrations/{provider}":
        _row(401, 201, 404, 403, 403,  401, 401,  401, 401, 401, 403, 401, 401, 401,  401),
    "POST /webhooks/clerk":
        _row(400, 400, 400, 400, 400,  400, 400,  400, 400, 400, 400, 400, 400, 400,  200),
    "POST /internal/tokens/get":
        _row(401, 401, 401, 401, 401,  200, 401,  401, 401, 401, 401, 401, 401, 401,  401),
}
# fmt: on


class Stage:
    """A user with a connection, and everybody who may come to their door."""

    def __init__(self, scene: Connected, other: Headers, revoked: Headers) -> None:
        self.scene = scene
        self.journey: Journey = scene.journey
        self._other = other
        self._revoked = revoked

    @classmethod
    async def set_up(cls, scene: Connected) -> "Stage":
        other = await scene.journey.sign_up("other@example.com")
        revoked = await scene.journey.service_key(name="revoked")
        await scene.journey.container.service_clients.revoke_service("revoked")
        return cls(scene, other.headers, revoked)

    async def attempt(self, route: str, subject: str) -> int:
        """Call `route` as `subject`; everybody starts from the same state."""
        method, template = route.split(" ")
        path, body = await self._request(template)
        await self._change_user(subject)
        headers = {"Content-Type": "application/json"} | self._credential(subject, body)
        response: httpx.Response = await self.journey.client.request(
            method, path, headers=headers, content=body if method == "POST" else None
        )
        await self.journey.owner.execute("UPDATE users SET status = 'active', deleted_at = NULL")
        return response.status_code

    async def _request(self, template: str) -> tuple[str, bytes]:
        """Path with its query, and the body."""
        path = template.replace("{user_id}", self.scene.user_id).replace("{provider}", self.scene.provider)
        body: dict[str, Any] = {}
        if template.startswith("/oauth/callback"):
            location = await self._consented()
            path = f"{urlsplit(location).path}?{urlsplit(location).query}"
        elif template == "/users/{user_id}/integrations/{provider}":
            returned = await self.journey.callback(await self._consented())
            body = {"flow": flow_ticket(returned)}
        elif template == "/webhooks/clerk":
            body = self.journey.sandbox.clerk.event("session.created", {"id": "sess_1"})
        elif template.startswith("/internal/tokens"):
            body = {"user_id": self.scene.user_id, "provider": self.scene.provider}
        return path, encode_event(body)

    async def _consented(self) -> str:
        """Where the provider sends the browser after a consent."""
        started = await self.journey.authorize(self.scene.person, self.scene.provider)
        return await self.journey.consent(started["authorization_url"], account=self.scene.person.email)

    async def _change_user(self, subject: str) -> None:
        change = {"suspended user": "status = 'suspended'", "deleted user": "deleted_at = now()"}.get(subject)
        if change:
            statement = f"UPDATE users SET {change} WHERE id = $1"  # noqa: S608 - from the line above
            await self.journey.owner.execute(statement, self.scene.user_id)

    def _credential(self, subject: str, body: bytes) -> Headers:
        clerk = self.journey.sandbox.clerk
        forged: dict[str, dict[str, Any]] = {
            "owner": {},
            "suspended user": {},
            "deleted user": {},
            "expired JWT": {"issued_at": 1_700_000_000},
            "wrong issuer": {"iss": "https://clerk.elsewhere.example"},
            "wrong azp": {"azp": "https://evil.example"},
            "sts pending": {"sts": "pending"},
            "wrong signature": {"key": OTHER_KEY},
            "alg none": {"algorithm": "none"},
            "alg HS256": {"algorithm": "HS256", "key": clerk.public_key_pem.encode()},
        }
        if subject in forged:
            return self.journey.headers_of(self.scene.user_id, **forged[subject])
        others = {
            "anonymous": {},
            "other user": self._other,
            "service key": self.scene.key,
            "revoked key": self._revoked,
            "signed webhook": clerk.sign(body),
        }
        return others[subject]


@pytest.fixture
async def stage(connected: Connected) -> Stage:
    return await Stage.set_up(connected)


def test_matrix_has_a_row_for_every_route_and_no_other(app: FastAPI) -> None:
    assert set(MATRIX) == all_routes(app)


def test_schema_hides_no_route(app: FastAPI) -> None:
    assert documented_routes(app) == all_routes(app)


@pytest.mark.parametrize("route", MATRIX)
async def test_route_answers_every_subject_as_the_matrix_says(stage: Stage, route: str) -> None:
    answered = {subject: await stage.attempt(route, subject) for subject in SUBJECTS}

    assert answered == MATRIX[route]


async def test_route_that_does_not_declare_itself_public_refuses_strangers(stage: Stage, app: FastAPI) -> None:
    open_doors = {route for route in all_routes(app) if await stage.attempt(route, "anonymous") not in (400, 401)}

    assert open_doors == public_routes(app)
