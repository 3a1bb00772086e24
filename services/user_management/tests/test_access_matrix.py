"""Tests that every route of the application answers every kind of credential with the status in the matrix of
`access.py`."""

import base64
import itertools
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from services.devstack.main_job import Person, flow_ticket
from services.sandbox.clerk.webhooks import encode_event
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import ServicePermission
from services.user_management.schemas.webhook_subscription import CreateSubscriptionRequest
from services.user_management.services.token_service import GRANT_TYPE, USER_ID
from services.user_management.tests.access import DOORS, SUBJECTS
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.routes import all_routes, documented_routes, public_routes
from services.user_management.tests.scenes import Connected, Headers

pytestmark = pytest.mark.slow

OTHER_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ACTOR: Final = {"iss": "https://dashboard.clerk.com", "sid": "sess_support", "sub": "user_support"}
TARGET: Final = "target"
"""The name of the service that calls of `/admin/services/…` change."""
BODIES: Final[dict[str, dict[str, Any]]] = {
    "PATCH /users/{user_id}": {"first_name": "Augusta"},
    "PUT /users/{user_id}": {"first_name": "Augusta"},
    "PUT /admin/services/{name}/permissions": {"permissions": ["users:read"]},
    "PUT /admin/services/{name}/grants/{provider}": {"scopes": None, "reason_required": False},
    "POST /admin/services/{name}/keys": {"overlap_seconds": 60},
    "POST /webhook-subscriptions": {"url": "http://127.0.0.1:9/"},
}
ENCRYPTED: Final = ".".join(base64.urlsafe_b64encode(b"part").rstrip(b"=").decode() for _ in range(5))


class Stage:
    """A user with an integration, a user and a service for administrators to change, and the credentials of all kinds
    of callers ("subjects"); makes every call from the same state of these."""

    def __init__(self, scene: Connected, credentials: dict[str, Headers], patient: Person, key_id: str) -> None:
        self.scene = scene
        self.journey: Journey = scene.journey
        self._credentials = credentials
        self._patient = patient
        self._key_id = key_id
        self._numbers: Iterator[int] = itertools.count()

    @classmethod
    async def set_up(cls, scene: Connected) -> "Stage":
        journey = scene.journey
        other = await journey.sign_up("other@example.com")
        patient = await journey.sign_up("patient@example.com")
        target = await journey.service_key(name=TARGET)
        credentials = _sessions(journey, scene.user_id) | await _keys(journey) | {"granted service": scene.key}
        key = credentials["admin service"]["Authorization"].removeprefix("Bearer ")
        credentials |= {
            "other user": other.headers,
            "admin": journey.headers_of(ADMIN_USER_ID),
            "impersonated admin": journey.headers_of(ADMIN_USER_ID, act=ACTOR),
            "session and key at once": {**scene.headers, "X-API-Key": key},
            "key with another secret": {"Authorization": f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}"},
        }
        return cls(scene, credentials, patient, target["Authorization"].split("_")[1])

    async def attempt(self, route: str, subject: str) -> int:
        """Set the state back and call `route` (method and path template) as `subject`. Returns the status of the
        answer."""
        await self._reset(restorable=route.endswith("/restore"))
        method, template = route.split(" ")
        path, document = await self._request(route, template)
        form = route == "POST /internal/oauth/token"
        body = urlencode(document).encode() if form else encode_event(document)
        await self._prepare(subject)
        media_type = "application/x-www-form-urlencoded" if form else "application/json"
        headers = {"Content-Type": media_type} | self._credential(subject, body)
        response: httpx.Response = await self.journey.client.request(
            method, path, headers=headers, content=body if method in {"POST", "PUT", "PATCH"} else None
        )
        return response.status_code

    async def _reset(self, *, restorable: bool) -> None:
        owner = self.journey.owner
        await owner.execute(
            "DELETE FROM webhook_subscriptions;"
            " UPDATE users SET status = 'active', deleted_at = NULL, deleted_by = NULL, suspended_at = NULL;"
            " UPDATE service_clients SET disabled_at = NULL WHERE name = 'target';"
            " UPDATE service_keys SET revoked_at = NULL, expires_at = NULL"
            " WHERE client_id = (SELECT id FROM service_clients WHERE name = 'target')"
        )
        await self.journey.container.service_clients.grant(
            TESTER, TARGET, self.scene.provider, scopes=None, reason_required=False
        )
        if restorable:
            await owner.execute("UPDATE users SET deleted_at = now() WHERE id = $1", self._patient.id)
        self.journey.container.users.states.forget()
        live = "SELECT count(*) FROM integrations WHERE user_id = $1 AND status = 'active'"
        if await owner.fetchval(live, self.scene.user_id) == 0:
            await self.journey.connect(self.scene.person, self.scene.provider)

    async def _request(self, route: str, template: str) -> tuple[str, dict[str, Any]]:
        """Return the path with its query and the body for a call of `route`, having made the subscription or the
        consent that the call is about."""
        user_id = self._patient.id if template.startswith("/admin/") else self.scene.user_id
        path = template.format(
            user_id=user_id,
            provider=self.scene.provider,
            name=TARGET,
            key_id=self._key_id,
            subscription_id=await self._subscribe() if "{subscription_id}" in template else "",
        )
        if template.startswith("/oauth/callback"):
            location = urlsplit(await self._consented())
            return f"{location.path}?{location.query}", {}
        if route == "POST /users/{user_id}/integrations/{provider}":
            return path, {"flow": flow_ticket(await self.journey.callback(await self._consented()))}
        return path, self._body(route)

    def _body(self, route: str) -> dict[str, Any]:
        wanted = {"user_id": self.scene.user_id, "provider": self.scene.provider}
        subject = {"subject_token": self.scene.user_id, "subject_token_type": USER_ID}
        bodies: dict[str, dict[str, Any]] = {
            "POST /webhooks/clerk": self.journey.sandbox.clerk.event("session.ended", {"id": "sess_1"}),
            "POST /internal/tokens/get": wanted,
            "POST /internal/tokens/refresh": wanted,
            "POST /internal/tokens/batch-get": {"items": [wanted]},
            "POST /internal/oauth/token": {"grant_type": GRANT_TYPE, "audience": self.scene.provider, **subject},
            "POST /internal/users/batch-get": {"user_ids": [self.scene.user_id]},
            "POST /admin/services": {"name": f"new-{next(self._numbers)}"},
        }
        return bodies.get(route) or BODIES.get(route, {})

    async def _subscribe(self) -> UUID:
        """Make a subscription of the service `managing-service`, and return its id."""
        subscriptions = self.journey.container.events.subscriptions
        owner = Principal(PrincipalKind.SERVICE, "managing-service")
        request = CreateSubscriptionRequest(url="http://127.0.0.1:9/")
        return (await subscriptions.create_subscription(owner, request)).id

    async def _consented(self) -> str:
        """Start a connect attempt and consent at the provider; return the URL to which it sends the browser."""
        started = await self.journey.authorize(self.scene.person, self.scene.provider)
        return await self.journey.consent(started["authorization_url"], account=self.scene.person.email)

    async def _prepare(self, subject: str) -> None:
        change = {
            "suspended user": "status = 'suspended'",
            "deactivated user": "status = 'deactivated'",
            "deleted user": "deleted_at = now()",
        }.get(subject)
        if change:
            statement = f"UPDATE users SET {change} WHERE id = $1"  # noqa: S608 - from the lines above
            await self.journey.owner.execute(statement, self.scene.user_id)
            self.journey.container.users.states.forget()

    def _credential(self, subject: str, body: bytes) -> Headers:
        if subject == "signed webhook":
            return self.journey.sandbox.clerk.sign(body)
        return self._credentials[subject]


def _sessions(journey: Journey, user_id: str) -> dict[str, Headers]:
    """Return the headers of each subject without a service key: with valid and invalid sessions of the user, with other
    tokens that look like one, and with none."""
    clerk = journey.sandbox.clerk
    claims: dict[str, dict[str, Any]] = {
        "owner": {},
        "suspended user": {},
        "deactivated user": {},
        "deleted user": {},
        "impersonated": {"act": ACTOR},
        "pending session": {"sts": "pending"},
        "expired session": {"issued_at": 1_700_000_000},
        "session of another issuer": {"iss": "https://clerk.elsewhere.example"},
        "session of another origin": {"azp": "https://evil.example"},
        "session without an origin": {"azp": None},
        "session signed by another key": {"key": OTHER_KEY},
        "unsigned session": {"algorithm": "none"},
        "session signed with the public key as a secret": {
            "algorithm": "HS256",
            "key": clerk.public_key_pem.encode(),
        },
        "template token without a session": {"sid": None},
        "id token": {"aud": "client_1", "nonce": "n"},
        "access token of OAuth": {"header": {"typ": "at+jwt"}},
    }
    session = clerk.session_token(user_id)
    return {subject: journey.headers_of(user_id, **forged) for subject, forged in claims.items()} | {
        "anonymous": {},
        "machine token": {"Authorization": "Bearer mt_0123456789abcdefghijklmnopqrstuv"},
        "encrypted token": {"Authorization": f"Bearer {ENCRYPTED}"},
        "session in the key header": {"X-API-Key": session},
    }


async def _keys(journey: Journey) -> dict[str, Headers]:
    """Create a service for each subject with a service key, and return their headers. Those whose key is invalid have
    all permissions, so that they are not refused for a lack of those."""
    clients = journey.container.service_clients
    everything = tuple(ServicePermission)
    wanted: dict[str, tuple[ServicePermission, ...]] = {
        "reading service": (ServicePermission.USERS_READ,),
        "searching service": (ServicePermission.USERS_SEARCH,),
        "managing service": (ServicePermission.WEBHOOKS_MANAGE,),
        "admin service": (ServicePermission.ADMIN,),
        "revoked key": everything,
        "expired key": everything,
        "key of a disabled service": everything,
    }
    keys: dict[str, Headers] = {}
    for subject, permissions in wanted.items():
        name = subject.replace(" ", "-")
        key = await clients.create_service(TESTER, name, permissions)
        await clients.grant(TESTER, name, "sandbox-grace", scopes=None, reason_required=False)
        keys[subject] = {"Authorization": f"Bearer {key}"}
    await clients.revoke_service(TESTER, "revoked-key")
    await clients.rotate_key(TESTER, "expired-key", overlap_seconds=0)
    await clients.disable_service(TESTER, "key-of-a-disabled-service")
    return keys


@pytest.fixture
async def stage(connected: Connected) -> Stage:
    return await Stage.set_up(connected)


def test_matrix_has_a_row_for_every_route_and_no_other(app: FastAPI) -> None:
    assert set(DOORS) == all_routes(app)


def test_schema_hides_no_route(app: FastAPI) -> None:
    assert documented_routes(app) == all_routes(app)


@pytest.mark.parametrize("route", DOORS)
async def test_route_answers_every_subject_as_the_matrix_says(stage: Stage, route: str) -> None:
    answered = {subject: await stage.attempt(route, subject) for subject in SUBJECTS}

    assert answered == DOORS[route]


async def test_route_that_does_not_declare_itself_public_refuses_strangers(stage: Stage, app: FastAPI) -> None:
    open_doors = {route for route in all_routes(app) if await stage.attempt(route, "anonymous") not in (400, 401)}

    assert open_doors == public_routes(app)
