"""Tests of events as webhooks deliver them: one of each type is caused, and must fit the JSON Schema published for
it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import jsonschema_rs
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from services.devstack.main_job import Person, expect
from services.user_management.enums import EventType, ProviderErrorKind
from services.user_management.routers.examples import EXAMPLES
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clerk_history import deliver, updated
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.events import happened
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected
from services.user_management.tests.webhook_receiver import Receiver, receiving

ADA: Final = "user_ada"
ME: Final = "/users/me"
TEST: Final = "webhook.test"


async def _sign_up(journey: Journey) -> None:
    await journey.sign_up()


async def _edit(journey: Journey) -> None:
    ada = await journey.sign_up()
    expect(await journey.client.patch(ME, headers=ada.headers, json={"first_name": "Augusta"}), 200)


async def _suspend(journey: Journey) -> None:
    ada = await journey.sign_up()
    admin, reason = journey.headers_of(ADMIN_USER_ID), {"reason": "chargeback"}
    expect(await journey.client.post(f"/admin/users/{ada.id}/suspend", headers=admin, json=reason), 200)


async def _deprovision(journey: Journey) -> None:
    for at, deprovisioned in enumerate((False, True), start=1):
        await deliver(journey.container, updated(ADA, at=at, deprovisioned=deprovisioned))


async def _delete(journey: Journey) -> Person:
    ada = await journey.sign_up()
    expect(await journey.client.delete(f"/admin/users/{ada.id}", headers=journey.headers_of(ADMIN_USER_ID)), 200)
    return ada


async def _restore(journey: Journey) -> None:
    ada = await _delete(journey)
    admin = journey.headers_of(ADMIN_USER_ID)
    expect(await journey.client.post(f"/admin/users/{ada.id}/restore", headers=admin), 200)


async def _erase(journey: Journey) -> None:
    await _delete(journey)
    await journey.owner.execute("UPDATE users SET deleted_at = deleted_at - interval '31 days'")
    await journey.container.users.erasure.erase_due(TESTER)


async def _connect(journey: Journey) -> None:
    await Connected.at(journey)


async def _refuse(journey: Journey, error: str, times: int = 1) -> Connected:
    """Make an integration, and let `times` refreshes of its expired access token fail with `error`."""
    connected = await Connected.at(journey)
    await journey.age_tokens()
    for _ in range(times):
        connected.fail("error", error=error)
        await connected.get()
        await connected.set("refresh_not_before", None)
    return connected


async def _degrade(journey: Journey) -> None:
    await _refuse(journey, "who_knows", times=3)


async def _recover(journey: Journey) -> None:
    connected = await _refuse(journey, "who_knows", times=3)
    expect(await connected.get(), 200)


async def _refuse_grant(journey: Journey) -> None:
    await _refuse(journey, "invalid_grant")


async def _revoke(journey: Journey) -> None:
    provider = journey.container.resources.providers.get("sandbox-static")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(provider.config.errors, "token_revoked", ProviderErrorKind.REVOKED)
        await _refuse(journey, "token_revoked")


async def _disconnect(journey: Journey) -> None:
    connected = await Connected.at(journey)
    expect(await journey.client.delete(f"{ME}/integrations/{connected.provider}", headers=connected.headers), 200)


async def _ask_for_a_test(journey: Journey) -> None:
    headers = journey.headers_of(ADMIN_USER_ID)
    (subscription,) = expect(await journey.client.get("/webhook-subscriptions", headers=headers), 200).json()["items"]
    path = f"/webhook-subscriptions/{subscription['id']}/test"
    expect(await journey.client.post(path, headers=headers), 202)


SCENES: Final[dict[str, Callable[[Journey], Awaitable[object]]]] = {
    EventType.USER_CREATED: _sign_up,
    EventType.USER_UPDATED: _edit,
    EventType.USER_SUSPENDED: _suspend,
    EventType.USER_DEACTIVATED: _deprovision,
    EventType.USER_DELETED: _delete,
    EventType.USER_RESTORED: _restore,
    EventType.USER_ERASED: _erase,
    EventType.INTEGRATION_CONNECTED: _connect,
    EventType.INTEGRATION_DEGRADED: _degrade,
    EventType.INTEGRATION_RECOVERED: _recover,
    EventType.INTEGRATION_NEEDS_REAUTH: _refuse_grant,
    EventType.INTEGRATION_REVOKED: _revoke,
    EventType.INTEGRATION_DISCONNECTED: _disconnect,
    TEST: _ask_for_a_test,
}


@pytest.fixture
async def receiver(journey: Journey) -> AsyncIterator[Receiver]:
    """Run a receiver of webhooks that is subscribed to all events."""
    async with receiving() as started:
        headers = journey.headers_of(ADMIN_USER_ID)
        subscription = {"url": started.url}
        expect(await journey.client.post("/webhook-subscriptions", headers=headers, json=subscription), 201)
        yield started


def _published(app: FastAPI, event_type: str) -> dict[str, Any]:
    """Return the published schema of a whole event of this type, with all schemas that it refers to."""
    document = app.openapi()
    content = document["webhooks"][event_type]["post"]["requestBody"]["content"]
    return {**content["application/cloudevents+json"]["schema"], "components": document["components"]}


def _check(app: FastAPI, event: dict[str, Any]) -> None:
    """Raise unless the event fits the schema of its type, and has no attribute that the schema does not name."""
    schema = _published(app, event["type"])
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(event)
    model = schema["$ref"].rpartition("/")[2]
    assert set(event) <= set(schema["components"]["schemas"][model]["properties"])


def test_every_type_of_event_has_a_published_schema(app: FastAPI) -> None:
    assert set(app.openapi()["webhooks"]) == {*EventType, TEST}


@pytest.mark.slow
@pytest.mark.parametrize("event_type", [*EventType, TEST])
async def test_event_is_sent_as_its_published_schema_says(
    journey: Journey, app: FastAPI, receiver: Receiver, event_type: str
) -> None:
    await SCENES[event_type](journey)

    await journey.container.events.outbox.relay(TESTER)
    await journey.container.events.deliveries.deliver_due(TESTER)

    events = [json.loads(received.body) for received in receiver.received]
    assert event_type in {event["type"] for event in events}
    for event in events:
        _check(app, event)


@pytest.mark.parametrize("event_type", EventType)
def test_event_that_tells_more_is_not_what_was_published(app: FastAPI, event_type: EventType) -> None:
    data = happened(event_type).model_dump(mode="json")
    sent = EXAMPLES["UserCreatedEvent"] | {"type": event_type.value, "data": data}
    _check(app, sent)

    with pytest.raises(jsonschema_rs.ValidationError):
        _check(app, sent | {"data": data | {"email": "ada@example.com"}})
    with pytest.raises(ValidationError):
        happened(event_type, email="ada@example.com")
