"""Whatever changes something leaves a record, in the transaction of the change."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from services.user_management.tests.journey import Journey
from services.user_management.tests.routes import all_routes
from services.user_management.tests.scenes import Connected

PROVIDER = "sandbox-static"
Call = Callable[[], Awaitable[httpx.Response]]
CALLBACK = "GET /oauth/callback/{provider}"
"""Changes something although it is a GET."""


@dataclass(frozen=True)
class Recorded:
    """`prepare` goes as far as the call and returns it; `audit` and `reads` are what the call alone must write."""

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
}


async def _audited(journey: Journey) -> list[tuple[str, str]]:
    """Action and request id of every audit row, oldest first."""
    rows = await journey.owner.fetch("SELECT action, request_id FROM audit_logs ORDER BY occurred_at")
    return [(row["action"], row["request_id"]) for row in rows]


async def _read(journey: Journey) -> list[tuple[str, str]]:
    """Outcome and request id of every recorded read, oldest first."""
    rows = await journey.owner.fetch("SELECT outcome, request_id FROM token_reads ORDER BY read_at")
    return [(row["outcome"], row["request_id"]) for row in rows]


def test_records_name_every_route_that_changes_something(app: FastAPI) -> None:
    changing = {route for route in all_routes(app) if not route.startswith("GET ")} | {CALLBACK}

    assert set(RECORDS) == changing


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
