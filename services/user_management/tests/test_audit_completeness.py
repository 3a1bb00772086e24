"""Tests that a call of any route that changes something writes its audit rows and token reads, with the request's
id."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.user_management.services.token_service import GRANT_TYPE, USER_ID
from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey
from services.user_management.tests.routes import all_routes
from services.user_management.tests.scenes import Connected

PROVIDER = "sandbox-static"
Call = Callable[[], Awaitable[httpx.Response]]
Prepare = Callable[[Journey], Awaitable[Call]]
CALLBACK = "GET /oauth/callback/{provider}"
"""The one GET that changes something."""


@dataclass(frozen=True)
class Recorded:
    """A call and its records: `prepare` sets everything up and returns the call, which alone must write audit rows with
    the actions `audit` and token reads with the outcomes `reads`."""

    prepare: Callable[[Journey], Awaitable[Call]]
    audit: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


async def _receive_webhook(journey: Journey) -> Call:
    user = journey.sandbox.clerk.create_user(email="ada@example.com")
    return lambda: journey.webhook("user.created", user)


async def _authorize(journey: Journey) -> Call:
    ada = await journey.sign_up()
    return lambda: journey.client.post(
        f"/users/me/integrations/{PROVIDER}/authorize", headers=ada.headers, json={"scopes": []}
    )


async def _callback(journey: Journey) -> Call:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    location = await journey.consent(started["authorization_url"], account=ada.email)
    return lambda: journey.callback(location)


async def _confirm(journey: Journey) -> Call:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, PROVIDER)
    await journey.callback(await journey.consent(started["authorization_url"], account=ada.email))
    return lambda: journey.confirm(ada, PROVIDER, flow=journey.ticket(started))


async def _get_token(journey: Journey) -> Call:
    return (await Connected.at(journey)).get


async def _get_token_after_expiry(journey: Journey) -> Call:
    scene = await Connected.at(journey)
    await journey.age_tokens()
    return scene.get


def _own_integration(method: str, path: str = "", body: dict[str, object] | None = None) -> Prepare:
    """Return what prepares a user's call on their own integration, whose access token has expired."""

    async def prepare(journey: Journey) -> Call:
        scene = await Connected.at(journey)
        await journey.age_tokens()
        url = f"/users/me/integrations/{PROVIDER}{path}"
        return lambda: journey.client.request(method, url, headers=scene.headers, json=body)

    return prepare


def _ask_for_token(path: str, *, as_form: bool = False) -> Prepare:
    """Return what prepares a service's call for a token that has to be refreshed."""

    async def prepare(journey: Journey) -> Call:
        scene = await Connected.at(journey)
        await journey.age_tokens()
        wanted = {"user_id": scene.user_id, "provider": PROVIDER}
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token": scene.user_id,
            "subject_token_type": USER_ID,
            "audience": PROVIDER,
        }
        body: dict[str, Any] = {"json": {"items": [wanted]} if path.endswith("batch-get") else wanted}
        return lambda: journey.client.post(path, headers=scene.key, **({"data": form} if as_form else body))

    return prepare


def _administer(method: str, path: str, body: dict[str, object] | None = None) -> Callable[[Journey], Awaitable[Call]]:
    """Return what prepares an administrator's call of `/admin/services` followed by `path`. A service `calendar-sync`
    exists, with a key and a grant; it is disabled before a call that enables it. `{key_id}` in `path` stands for the id
    of its key."""

    async def prepare(journey: Journey) -> Call:
        services = journey.container.service_clients
        key_id = (await journey.service_key(PROVIDER))["Authorization"].split("_")[1]
        admin = {"X-API-Key": await services.create_service(TESTER, "operations", ["admin"])}
        if path.endswith("/enable"):
            await services.disable_service(TESTER, "calendar-sync")
        url = f"/admin/services{path.replace('{key_id}', key_id)}"
        return lambda: journey.client.request(method, url, headers=admin, json=body)

    return prepare


def _edit(method: str) -> Callable[[Journey], Awaitable[Call]]:
    """Return what prepares a user's call on their own profile."""

    async def prepare(journey: Journey) -> Call:
        ada = await journey.sign_up()
        await journey.client.get("/users/me", headers=ada.headers)
        body = None if method == "DELETE" else {"first_name": "Augusta"}
        return lambda: journey.client.request(method, "/users/me", headers=ada.headers, json=body)

    return prepare


def _treat(method: str, action: str = "", change: str = "") -> Callable[[Journey], Awaitable[Call]]:
    """Return what prepares an administrator's call on another user, after an SQL `change` (assignments) of all
    users."""

    async def prepare(journey: Journey) -> Call:
        ada = await journey.sign_up()
        admin = {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])}
        if change:
            await journey.owner.execute(f"UPDATE users SET {change}")  # noqa: S608 - from the table below
        body: dict[str, str] | None = {} if action == "/suspend" else None
        return lambda: journey.client.request(method, f"/admin/users/{ada.id}{action}", headers=admin, json=body)

    return prepare


async def _batch_get(journey: Journey) -> Call:
    ada = await journey.sign_up()
    reader = {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "reader", ["users:read"])}
    return lambda: journey.client.post("/internal/users/batch-get", headers=reader, json={"user_ids": [ada.id]})


def _subscription(
    method: str, path: str = "", body: dict[str, object] | None = None
) -> Callable[[Journey], Awaitable[Call]]:
    """Return what prepares an administrator's call on a webhook subscription; without a `path`, the call that makes
    one."""

    async def prepare(journey: Journey) -> Call:
        admin = {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])}
        request: dict[str, object] = {"url": "http://127.0.0.1:9/"}
        made = await journey.client.post("/webhook-subscriptions", headers=admin, json=request)
        url = f"/webhook-subscriptions{path.replace('{id}', made.json()['id'])}"
        return lambda: journey.client.request(method, url, headers=admin, json=body if path else request)

    return prepare


SUSPENDED = "suspended_at = now(), status = 'suspended'"
DELETED = "deleted_at = now(), deleted_by = 'user', status = 'deactivated'"
RECORDS: dict[str, tuple[Recorded, ...]] = {
    "POST /webhooks/clerk": (Recorded(_receive_webhook, audit=("user.created",)),),
    "POST /users/{user_id}/integrations/{provider}/authorize": (
        Recorded(_authorize, audit=("integration.connect_started",)),
    ),
    CALLBACK: (Recorded(_callback, audit=("integration.provider_returned",)),),
    "POST /users/{user_id}/integrations/{provider}": (
        Recorded(_confirm, audit=("integration.connect_confirmed", "integration.connected")),
    ),
    "POST /internal/tokens/get": (
        Recorded(_get_token, reads=("granted",)),
        Recorded(_get_token_after_expiry, audit=("integration.token_refreshed",), reads=("granted",)),
    ),
    "POST /internal/tokens/refresh": (
        Recorded(
            _ask_for_token("/internal/tokens/refresh"), audit=("integration.token_refreshed",), reads=("granted",)
        ),
    ),
    "POST /internal/tokens/batch-get": (
        Recorded(
            _ask_for_token("/internal/tokens/batch-get"), audit=("integration.token_refreshed",), reads=("granted",)
        ),
    ),
    "POST /internal/oauth/token": (
        Recorded(
            _ask_for_token("/internal/oauth/token", as_form=True),
            audit=("integration.token_refreshed",),
            reads=("granted",),
        ),
    ),
    "PATCH /users/{user_id}/integrations/{provider}": (
        Recorded(
            _own_integration("PATCH", body={"metadata": {"label": "Work"}}), audit=("integration.metadata_changed",)
        ),
    ),
    "PUT /users/{user_id}/integrations/{provider}": (
        Recorded(
            _own_integration("PUT", body={"metadata": {"label": "Work"}}), audit=("integration.metadata_changed",)
        ),
    ),
    "DELETE /users/{user_id}/integrations/{provider}": (
        Recorded(_own_integration("DELETE"), audit=("integration.disconnected",)),
    ),
    "PUT /users/{user_id}/integrations/{provider}/refresh": (
        Recorded(_own_integration("PUT", "/refresh"), audit=("integration.token_refreshed",)),
    ),
    "PATCH /users/{user_id}": (Recorded(_edit("PATCH"), audit=("user.updated",)),),
    "PUT /users/{user_id}": (Recorded(_edit("PUT"), audit=("user.updated",)),),
    "DELETE /users/{user_id}": (Recorded(_edit("DELETE"), audit=("user.deleted",)),),
    # A question that is too long for a query string; it changes nothing.
    "POST /internal/users/batch-get": (Recorded(_batch_get),),
    "POST /admin/users/{user_id}/suspend": (Recorded(_treat("POST", "/suspend"), audit=("user.suspended",)),),
    "POST /admin/users/{user_id}/unsuspend": (
        Recorded(_treat("POST", "/unsuspend", SUSPENDED), audit=("user.updated",)),
    ),
    "POST /admin/users/{user_id}/restore": (Recorded(_treat("POST", "/restore", DELETED), audit=("user.restored",)),),
    "DELETE /admin/users/{user_id}": (Recorded(_treat("DELETE"), audit=("user.deleted",)),),
    "POST /admin/services": (Recorded(_administer("POST", "", {"name": "mailer"}), audit=("service.created",)),),
    "PUT /admin/services/{name}/permissions": (
        Recorded(
            _administer("PUT", "/calendar-sync/permissions", {"permissions": ["users:read"]}),
            audit=("service.permitted",),
        ),
    ),
    "PUT /admin/services/{name}/grants/{provider}": (
        Recorded(
            _administer("PUT", f"/calendar-sync/grants/{PROVIDER}", {"scopes": None, "reason_required": True}),
            audit=("service.granted",),
        ),
    ),
    "DELETE /admin/services/{name}/grants/{provider}": (
        Recorded(_administer("DELETE", f"/calendar-sync/grants/{PROVIDER}"), audit=("service.grant_withdrawn",)),
    ),
    "POST /admin/services/{name}/keys": (
        Recorded(_administer("POST", "/calendar-sync/keys", {}), audit=("service.key_rotated",)),
    ),
    "DELETE /admin/services/{name}/keys/{key_id}": (
        Recorded(_administer("DELETE", "/calendar-sync/keys/{key_id}"), audit=("service.key_revoked",)),
    ),
    "POST /admin/services/{name}/disable": (
        Recorded(_administer("POST", "/calendar-sync/disable"), audit=("service.disabled",)),
    ),
    "POST /admin/services/{name}/enable": (
        Recorded(_administer("POST", "/calendar-sync/enable"), audit=("service.enabled",)),
    ),
    "POST /webhook-subscriptions": (Recorded(_subscription("POST"), audit=("webhook_subscription.created",)),),
    "PATCH /webhook-subscriptions/{subscription_id}": (
        Recorded(_subscription("PATCH", "/{id}", {"status": "disabled"}), audit=("webhook_subscription.updated",)),
    ),
    "DELETE /webhook-subscriptions/{subscription_id}": (
        Recorded(_subscription("DELETE", "/{id}"), audit=("webhook_subscription.deleted",)),
    ),
    "POST /webhook-subscriptions/{subscription_id}/rotate-secret": (
        Recorded(_subscription("POST", "/{id}/rotate-secret", {}), audit=("webhook_subscription.secret_rotated",)),
    ),
    "POST /webhook-subscriptions/{subscription_id}/test": (
        Recorded(_subscription("POST", "/{id}/test"), audit=("webhook_subscription.tested",)),
    ),
    "POST /webhook-subscriptions/{subscription_id}/replay": (
        Recorded(_subscription("POST", "/{id}/replay", {}), audit=("webhook_subscription.replayed",)),
    ),
    "POST /admin/services/{name}/revoke": (
        Recorded(_administer("POST", "/calendar-sync/revoke"), audit=("service.revoked",)),
    ),
}


async def _audited(journey: Journey) -> list[tuple[str, str]]:
    """Return action and request id of every audit row, the oldest first."""
    rows = await journey.owner.fetch("SELECT action, request_id FROM audit_logs ORDER BY occurred_at")
    return [(row["action"], row["request_id"]) for row in rows]


async def _read(journey: Journey) -> list[tuple[str, str]]:
    """Return outcome and request id of every token read, the oldest first."""
    rows = await journey.owner.fetch("SELECT outcome, request_id FROM token_reads ORDER BY read_at")
    return [(row["outcome"], row["request_id"]) for row in rows]


def test_records_name_every_route_that_changes_something(app: FastAPI) -> None:
    changing = {route for route in all_routes(app) if not route.startswith("GET ")} | {CALLBACK}

    assert set(RECORDS) == changing


@pytest.mark.slow
@pytest.mark.parametrize(
    "recorded",
    [pytest.param(one, id=f"{route} {number}") for route, many in RECORDS.items() for number, one in enumerate(many)],
)
async def test_call_that_succeeds_writes_its_records(journey: Journey, recorded: Recorded) -> None:
    call = await recorded.prepare(journey)
    audited, read = await _audited(journey), await _read(journey)

    response = await call()

    assert response.status_code < 400, response.text
    request_id = response.headers["x-request-id"]
    assert (await _audited(journey))[len(audited) :] == [(action, request_id) for action in recorded.audit]
    assert (await _read(journey))[len(read) :] == [(outcome, request_id) for outcome in recorded.reads]
