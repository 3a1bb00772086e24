"""Tests that a subscription belongs to the user or service that made it, and gets the events that this owner may
receive at that moment."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import pytest

from services.user_management.enums import EventType
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.events import happened
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Headers, assert_problem, audit_actions
from services.user_management.tests.webhook_receiver import Receiver, answer, receiving

PATH: Final = "/webhook-subscriptions"
Change = Callable[[Journey, str], Awaitable[Any]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


async def service(journey: Journey, permission: str) -> str:
    """Create a service named billing with this permission, and return its key."""
    return await journey.container.service_clients.create_service(TESTER, "billing", [permission])


async def subscribe(journey: Journey, headers: Headers, url: str) -> dict[str, Any]:
    response = await journey.client.post(PATH, headers=headers, json={"url": url})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def shown(journey: Journey, headers: Headers, subscription_id: str) -> dict[str, Any]:
    response = await journey.client.get(f"{PATH}/{subscription_id}", headers=headers)
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    return answered


async def happen(journey: Journey, event_type: EventType, provider: str | None = None) -> None:
    """Publish an event about `user_1`, relay it, and send the deliveries that are due."""
    members = {"provider": provider} if provider else {}
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        uow.publish(happened(event_type, **members))
    await journey.container.events.outbox.relay(TESTER)
    await journey.container.events.deliveries.deliver_due(TESTER)


def told(receiver: Receiver) -> list[str]:
    """List the types of the received events about `user_1`; events about others, such as the creation of the
    administrator, are left out."""
    events = [json.loads(one.body) for one in receiver.received]
    return [event["type"] for event in events if event["subject"] == "user_1"]


async def _revoke(journey: Journey, _key: str) -> None:
    await journey.container.service_clients.revoke_service(TESTER, "billing")


async def _demote(journey: Journey, _key: str) -> None:
    await journey.container.service_clients.set_permissions(TESTER, "billing", ["users:read"])


async def _disable(journey: Journey, _key: str) -> None:
    await journey.container.service_clients.disable_service(TESTER, "billing")


async def _revoke_only_key(journey: Journey, key: str) -> None:
    await journey.container.service_clients.revoke_key(TESTER, "billing", key.split("_")[1])


async def _let_keys_run_out(journey: Journey, _key: str) -> None:
    await journey.owner.execute("UPDATE service_keys SET expires_at = now() - interval '1 second'")


async def _new_key(journey: Journey) -> Any:
    return await journey.container.service_clients.rotate_key(TESTER, "billing")


async def _enable(journey: Journey) -> Any:
    return await journey.container.service_clients.enable_service(TESTER, "billing")


async def _promote(journey: Journey) -> Any:
    return await journey.container.service_clients.set_permissions(TESTER, "billing", ["webhooks:manage"])


@pytest.mark.slow
@pytest.mark.parametrize("permission", ["admin", "webhooks:manage"])
@pytest.mark.parametrize(
    ("lose", "regain"),
    [
        (_demote, _promote),
        (_disable, _enable),
        (_revoke, _new_key),
        (_revoke_only_key, _new_key),
        (_let_keys_run_out, _new_key),
    ],
)
async def test_service_is_told_nothing_from_when_it_may_not_until_it_may(
    journey: Journey,
    admin: Headers,
    receiver: Receiver,
    permission: str,
    lose: Change,
    regain: Callable[[Journey], Awaitable[Any]],
) -> None:
    key = await service(journey, permission)
    made = await subscribe(journey, {"X-API-Key": key}, receiver.url)
    receiver.answers = [answer(500)]
    await happen(journey, EventType.USER_CREATED)
    await journey.owner.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
    receiver.received.clear()

    await lose(journey, key)
    await happen(journey, EventType.USER_UPDATED)
    meanwhile = (told(receiver), (await shown(journey, admin, made["id"]))["owner_may_hear"])
    refused = [
        await journey.client.post(f"{PATH}/{made['id']}/{action}", headers=admin, json={})
        for action in ("test", "replay")
    ]
    await regain(journey)
    await happen(journey, EventType.USER_DELETED)

    assert (made["owner"], made["owner_may_hear"]) == ("billing", True)
    assert meanwhile == ([], False)
    for response in refused:
        assert_problem(response, 409, "conflict")
    assert sorted(told(receiver)) == ["user.created", "user.deleted"]
    assert (await shown(journey, admin, made["id"]))["owner_may_hear"] is True


async def test_subscription_of_a_demoted_service_hears_of_what_the_service_may_know(
    journey: Journey, receiver: Receiver
) -> None:
    services = journey.container.service_clients
    await subscribe(journey, {"X-API-Key": await service(journey, "admin")}, receiver.url)
    await services.grant(TESTER, "billing", "sandbox-static", scopes=None, reason_required=False)
    await happen(journey, EventType.INTEGRATION_CONNECTED, "sandbox-strict")
    as_admin = told(receiver)

    await services.set_permissions(TESTER, "billing", ["webhooks:manage"])
    await happen(journey, EventType.INTEGRATION_REVOKED, "sandbox-strict")
    await happen(journey, EventType.INTEGRATION_DEGRADED, "sandbox-static")

    assert as_admin == ["integration.connected"]
    assert told(receiver)[1:] == ["integration.degraded"]


async def _suspend(journey: Journey) -> None:
    await journey.owner.execute("UPDATE users SET status = 'suspended' WHERE id = $1", ADMIN_USER_ID)


async def _delete(journey: Journey) -> None:
    await journey.owner.execute("UPDATE users SET deleted_at = now() WHERE id = $1", ADMIN_USER_ID)


async def _erase(journey: Journey) -> None:
    await journey.owner.execute("DELETE FROM users WHERE id = $1", ADMIN_USER_ID)


async def _no_longer_admin(journey: Journey) -> None:
    """Give the subscriptions an owner who is not in ADMIN_USER_IDS, since the settings of a running process do not
    change."""
    former = await journey.sign_up()
    await journey.owner.execute("UPDATE webhook_subscriptions SET created_by = $1", former.id)


@pytest.mark.parametrize("lose", [_suspend, _delete, _erase, _no_longer_admin])
async def test_user_who_is_no_active_administrator_is_told_nothing(
    journey: Journey, admin: Headers, receiver: Receiver, lose: Callable[[Journey], Awaitable[None]]
) -> None:
    made = await subscribe(journey, admin, receiver.url)
    await happen(journey, EventType.INTEGRATION_CONNECTED, "sandbox-strict")
    before = told(receiver)

    await lose(journey)
    await happen(journey, EventType.USER_CREATED)

    operator = {"X-API-Key": await service(journey, "admin")}
    assert (made["owner"], made["owner_may_hear"]) == (ADMIN_USER_ID, True)
    assert before == ["integration.connected"]
    assert told(receiver) == before
    assert (await shown(journey, operator, made["id"]))["owner_may_hear"] is False


async def test_subscription_of_an_unknown_maker_is_told_nothing(
    journey: Journey, admin: Headers, receiver: Receiver
) -> None:
    await subscribe(journey, admin, receiver.url)
    await journey.owner.execute("UPDATE webhook_subscriptions SET created_by = 'long-gone'")

    await happen(journey, EventType.USER_CREATED)

    assert receiver.received == []


async def test_administrator_can_send_the_events_of_others_nowhere_else(
    journey: Journey, admin: Headers, receiver: Receiver
) -> None:
    path = f"{PATH}/{(await subscribe(journey, admin, receiver.url))['id']}"
    intruder = {"X-API-Key": await service(journey, "admin")}

    async with receiving() as elsewhere:
        refused = [
            await journey.client.patch(path, headers=intruder, json={"url": elsewhere.url, "description": "mine"}),
            await journey.client.post(f"{path}/rotate-secret", headers=intruder, json={}),
        ]
        allowed = [
            await journey.client.patch(path, headers=intruder, json={"url": receiver.url, "status": "disabled"}),
            await journey.client.patch(path, headers=intruder, json={"status": "active"}),
        ]
        await _disable(journey, intruder["X-API-Key"])
        await happen(journey, EventType.USER_CREATED)
        by_its_owner = await journey.client.patch(path, headers=admin, json={"url": elsewhere.url})

    for response in refused:
        assert_problem(response, 403, "forbidden")
    assert [response.status_code for response in allowed] == [200, 200], allowed
    assert (told(receiver), elsewhere.received) == (["user.created"], [])
    assert (by_its_owner.status_code, by_its_owner.json()["description"]) == (200, None)


async def test_each_administrator_has_20_subscriptions_of_their_own(journey: Journey, admin: Headers) -> None:
    url = "http://127.0.0.1:9/hook"
    for _ in range(20):
        await subscribe(journey, admin, url)

    one_more = await journey.client.post(PATH, headers=admin, json={"url": url})

    assert_problem(one_more, 409, "conflict")
    await subscribe(journey, {"X-API-Key": await service(journey, "admin")}, url)


async def test_tests_of_a_subscription_are_pending_one_at_a_time(journey: Journey, admin: Headers) -> None:
    made = await subscribe(journey, admin, "http://127.0.0.1:9/hook")

    async def test() -> httpx.Response:
        return await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)

    answers = await asyncio.gather(*(test() for _ in range(20)))

    assert {response.status_code for response in answers} == {202}
    assert len({response.text for response in answers}) == 1
    assert await journey.owner.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
    assert (await audit_actions(journey)).count("webhook_subscription.tested") == 1


async def test_pending_test_that_failed_is_sent_again_when_asked_for(
    journey: Journey, admin: Headers, receiver: Receiver
) -> None:
    made = await subscribe(journey, admin, receiver.url)
    receiver.answers = [answer(500)]
    first = await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)
    await journey.container.events.deliveries.deliver_due(TESTER)
    await journey.owner.execute("UPDATE webhook_deliveries SET next_attempt_at = now() + interval '2 hours'")

    second = await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)
    await journey.container.events.deliveries.deliver_due(TESTER)
    third = await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)

    assert first.json() == second.json()
    assert [one.headers["webhook-id"] for one in receiver.received] == [first.json()["webhook_id"]] * 2
    assert third.json() != first.json()


async def test_test_that_is_being_sent_is_not_hastened(journey: Journey, admin: Headers, receiver: Receiver) -> None:
    made = await subscribe(journey, admin, receiver.url)
    await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)
    receiver.may_answer.clear()
    sending = asyncio.create_task(journey.container.events.deliveries.deliver_due(TESTER))
    await receiver.arrived.wait()

    await journey.client.post(f"{PATH}/{made['id']}/test", headers=admin)
    receiver.may_answer.set()
    await sending
    await journey.container.events.deliveries.deliver_due(TESTER)

    assert len(receiver.received) == 1


async def test_asking_for_a_test_while_several_are_pending_hastens_the_first(
    journey: Journey, admin: Headers, receiver: Receiver
) -> None:
    path = f"{PATH}/{(await subscribe(journey, admin, receiver.url))['id']}"
    asked = []
    for _ in range(2):
        asked.append((await journey.client.post(f"{path}/test", headers=admin)).json())
        await journey.owner.execute("UPDATE webhook_deliveries SET state = 'failed', next_attempt_at = NULL")
    replayed = await journey.client.post(f"{path}/replay", headers=admin, json={})

    again = await journey.client.post(f"{path}/test", headers=admin)

    assert replayed.json()["queued"] == 2
    assert (again.status_code, again.json() in asked) == (202, True)
