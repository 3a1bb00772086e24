"""Tests of webhook subscriptions over HTTP and on the command line: who sees and changes which, and what replays send
again."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from services.conftest import Servers
from services.user_management.enums import EventType
from services.user_management.services.webhook_subscription_service import MAX_REPLAYED
from services.user_management.settings import Settings
from services.user_management.tests.actors import TESTER
from services.user_management.tests.command_line import CommandLine
from services.user_management.tests.events import happened
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Headers, assert_problem, audit_actions
from services.user_management.tests.webhook_receiver import Receiver, answer, receiving

ADDRESS: Final = "http://127.0.0.1:9/hook"
PATH: Final = "/webhook-subscriptions"


class Door:
    """Calls `/webhook-subscriptions` followed by a path, on behalf of one caller."""

    def __init__(self, client: httpx.AsyncClient, headers: Headers) -> None:
        self._client = client
        self._headers = headers

    async def __call__(
        self, method: str, path: str = "", document: Any = None, status: int | None = None, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self._client.request(
            method, f"{PATH}{path}", headers={**self._headers, **named}, json=document
        )
        assert status is None or response.status_code == status, response.text
        return response

    async def create(self, url: str = ADDRESS, **fields: Any) -> dict[str, Any]:
        created: dict[str, Any] = (await self("POST", "", {"url": url, **fields}, 201)).json()
        return created

    async def deliveries(self, subscription_id: str, query: str = "") -> dict[str, Any]:
        page: dict[str, Any] = (await self("GET", f"/{subscription_id}/deliveries{query}", status=200)).json()
        return page


@pytest.fixture
async def as_admin(journey: Journey) -> Door:
    key = await journey.container.service_clients.create_service(TESTER, "operations", ["admin"])
    return Door(journey.client, {"X-API-Key": key})


async def as_service(journey: Journey, name: str) -> Door:
    key = await journey.container.service_clients.create_service(TESTER, name, ["webhooks:manage"])
    return Door(journey.client, {"X-API-Key": key})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


async def happen(journey: Journey, *event_types: EventType) -> None:
    """Publish events of these types, and relay them."""
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        for event_type in event_types:
            uow.publish(happened(event_type))
    await journey.container.events.outbox.relay(TESTER)


async def test_subscription_is_created_with_a_secret_that_is_shown_once(journey: Journey, as_admin: Door) -> None:
    created = await as_admin.create(event_types=["user.*", "integration.connected", "user.*"], description="Billing")

    prefix, _, encoded = created.pop("secret").partition("_")
    assert (prefix, len(base64.b64decode(encoded, validate=True))) == ("whsec", 32)
    assert created["event_types"] == ["integration.connected", "user.*"]
    assert (created["status"], created["owner"], created["last_sequence"]) == ("active", "operations", 0)
    shown = await as_admin("GET", f"/{created['id']}", status=200)
    assert shown.json() == created
    assert encoded not in shown.text
    row = await journey.owner.fetchrow("SELECT * FROM webhook_subscriptions")
    assert encoded not in str(dict(row or {}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "ftp://hooks.example.com"},
        {"url": "http://169.254.169.254/latest"},
        {"url": "http://10.0.0.1/"},
        {"url": "http://user:word@127.0.0.1/"},
        {"url": "http://127.0.0.1/#part"},
        {"url": ADDRESS, "event_types": ["user.unheard"]},
        {"url": ADDRESS, "event_types": ["*"]},
        {"url": ADDRESS, "event_types": ["webhook.test"]},
        {"url": ADDRESS, "description": "a\u202eb"},
        {"url": ADDRESS, "secret": "whsec_mine"},
    ],
)
async def test_subscription_that_cannot_be_is_refused(as_admin: Door, body: dict[str, Any]) -> None:
    response = await as_admin("POST", "", body)

    assert_problem(response, 422, "validation_failed")


async def test_service_sees_and_changes_its_own_alone(journey: Journey, as_admin: Door) -> None:
    billing, mailer = await as_service(journey, "billing"), await as_service(journey, "mailer")
    mine, theirs = await billing.create(), await mailer.create()
    ours = await as_admin.create()
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PATCH", "", {"description": "x"}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", {}),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("POST", "/replay", {}),
    ]

    answers = [
        await billing(method, f"/{other['id']}{path}", body) for other in (theirs, ours) for method, path, body in calls
    ]

    for response in answers:
        assert_problem(response, 404, "not_found")
    assert (mine["owner"], mine["created_by"]) == ("billing", "billing")
    assert [one["id"] for one in (await billing("GET", status=200)).json()["items"]] == [mine["id"]]
    listed = (await as_admin("GET", status=200)).json()["items"]
    assert [one["id"] for one in listed] == [ours["id"], theirs["id"], mine["id"]]
    await as_admin("GET", f"/{mine['id']}", status=200)


async def test_subscription_that_does_not_exist_is_not_found(as_admin: Door) -> None:
    assert_problem(await as_admin("GET", f"/{uuid4()}"), 404, "not_found")
    assert_problem(await as_admin("GET", "/nonsense"), 422, "validation_failed")


async def test_list_has_pages(as_admin: Door) -> None:
    ids = [(await as_admin.create())["id"] for _ in range(5)]

    first = (await as_admin("GET", "?limit=3", status=200)).json()
    second = (await as_admin("GET", f"?limit=3&cursor={first['next_cursor']}", status=200)).json()

    assert [one["id"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert_problem(await as_admin("GET", "?cursor=forged"), 422, "validation_failed")


async def test_owner_has_at_most_20(journey: Journey, as_admin: Door) -> None:
    billing = await as_service(journey, "billing")
    for _ in range(20):
        await billing.create()

    response = await billing("POST", "", {"url": ADDRESS})

    assert_problem(response, 409, "conflict")
    await as_admin.create()


async def test_patch_changes_what_is_given_and_nothing_else(journey: Journey, as_admin: Door) -> None:
    created = await as_admin.create(event_types=["user.*"], description="Billing")

    patched = await as_admin("PATCH", f"/{created['id']}", {"event_types": None, "description": None}, 200)
    again = await as_admin("PATCH", f"/{created['id']}", {"description": None}, 200)

    del created["secret"]
    changed = {"event_types": [], "description": None, "updated_at": patched.json()["updated_at"]}
    assert patched.json() == {**created, **changed}
    assert again.headers["etag"] == patched.headers["etag"]
    assert (await audit_actions(journey))[1:] == ["webhook_subscription.created", "webhook_subscription.updated"]


@pytest.mark.parametrize(
    "body", [{"url": None}, {"status": None}, {"status": "paused"}, {"url": "http://10.0.0.1/"}, {"last_sequence": 1}]
)
async def test_patch_that_cannot_be_is_refused(as_admin: Door, body: dict[str, Any]) -> None:
    created = await as_admin.create()

    response = await as_admin("PATCH", f"/{created['id']}", body)

    assert_problem(response, 422, "validation_failed")


async def test_change_of_another_version_is_refused(as_admin: Door) -> None:
    created = await as_admin.create()
    path = f"/{created['id']}"
    tag = (await as_admin("GET", path)).headers["etag"]
    await as_admin("PATCH", path, {"description": "x"}, 200, if_match=tag)

    late = await as_admin("PATCH", path, {"description": "y"}, if_match=tag)
    removed_late = await as_admin("DELETE", path, if_match=tag)

    assert_problem(late, 412, "precondition_failed")
    assert_problem(removed_late, 412, "precondition_failed")
    await as_admin("DELETE", path, status=204)
    assert_problem(await as_admin("GET", path), 404, "not_found")


async def test_rotation_without_overlap_leaves_no_former_secret(journey: Journey, as_admin: Door) -> None:
    created = await as_admin.create()
    path = f"/{created['id']}/rotate-secret"

    overlapping = (await as_admin("POST", path, {}, 201)).json()
    at_once = (await as_admin("POST", path, {"overlap_seconds": 0}, 201)).json()

    assert len({created["secret"], overlapping["secret"], at_once["secret"]}) == 3
    assert overlapping["former_secret_until"] is not None
    assert at_once["former_secret_until"] is None
    assert await journey.owner.fetchval("SELECT former_secret_ciphertext FROM webhook_subscriptions") is None
    assert_problem(await as_admin("POST", path, {"overlap_seconds": 99_999_999}), 422, "validation_failed")


async def test_test_event_is_delivered_as_any_other(journey: Journey, as_admin: Door, receiver: Receiver) -> None:
    created = await as_admin.create(receiver.url, event_types=["user.deleted"])

    queued = (await as_admin("POST", f"/{created['id']}/test", status=202)).json()
    await journey.container.events.deliveries.deliver_due(TESTER)

    (received,) = receiver.received
    received.verify(created["secret"])
    assert received.headers["webhook-id"] == queued["webhook_id"]
    assert json.loads(received.body)["type"] == "webhook.test"


async def test_disabled_subscription_refuses_tests_and_replays(as_admin: Door) -> None:
    created = await as_admin.create()
    disabled = await as_admin("PATCH", f"/{created['id']}", {"status": "disabled"}, 200)

    tested = await as_admin("POST", f"/{created['id']}/test")
    replayed = await as_admin("POST", f"/{created['id']}/replay", {})

    assert disabled.json()["disabled_reason"] == "owner"
    assert_problem(tested, 409, "conflict")
    assert_problem(replayed, 409, "conflict")


async def test_what_waits_while_disabled_is_sent_when_enabled(
    journey: Journey, as_admin: Door, receiver: Receiver
) -> None:
    created = await as_admin.create(receiver.url)
    await happen(journey, EventType.USER_CREATED)
    await as_admin("PATCH", f"/{created['id']}", {"status": "disabled"}, 200)
    await journey.container.events.deliveries.deliver_due(TESTER)
    while_disabled = len(receiver.received)

    await as_admin("PATCH", f"/{created['id']}", {"status": "active"}, 200)
    await journey.container.events.deliveries.deliver_due(TESTER)

    assert (while_disabled, len(receiver.received)) == (0, 1)


async def test_what_waits_for_a_disabled_service_is_sent_when_that_is_enabled(
    journey: Journey, receiver: Receiver
) -> None:
    services = journey.container.service_clients
    await (await as_service(journey, "billing")).create(receiver.url)
    await happen(journey, EventType.USER_CREATED)
    await services.disable_service(TESTER, "billing")
    await happen(journey, EventType.USER_UPDATED)
    await journey.container.events.deliveries.deliver_due(TESTER)
    while_disabled = (len(receiver.received), len(await _states(journey.owner)))

    await services.enable_service(TESTER, "billing")
    await journey.container.events.deliveries.deliver_due(TESTER)

    assert while_disabled == (0, 1)
    assert [json.loads(one.body)["type"] for one in receiver.received] == ["user.created"]


async def test_delivery_that_fails_while_its_subscription_is_disabled_is_parked(
    journey: Journey, as_admin: Door, receiver: Receiver
) -> None:
    created = await as_admin.create(receiver.url)
    await happen(journey, EventType.USER_CREATED)
    receiver.otherwise = answer(500)
    receiver.may_answer.clear()
    sending = asyncio.create_task(journey.container.events.deliveries.deliver_due(TESTER))
    await receiver.arrived.wait()

    await as_admin("PATCH", f"/{created['id']}", {"status": "disabled"}, 200)
    receiver.may_answer.set()
    await sending

    assert await _states(journey.owner) == [("pending", False)]
    assert await journey.owner.fetchval("SELECT last_status FROM webhook_deliveries") == 500


async def test_subscription_of_a_disabled_service_is_sent_nothing_whoever_asks(
    journey: Journey, as_admin: Door, receiver: Receiver
) -> None:
    services = journey.container.service_clients
    path = f"/{(await (await as_service(journey, 'billing')).create(receiver.url))['id']}"
    await happen(journey, EventType.USER_CREATED)
    await services.disable_service(TESTER, "billing")

    refused = [await as_admin("POST", f"{path}/test"), await as_admin("POST", f"{path}/replay", {})]
    await as_admin("PATCH", path, {"status": "disabled"}, 200)
    await as_admin("PATCH", path, {"status": "active"}, 200)
    await journey.container.events.deliveries.deliver_due(TESTER)

    for response in refused:
        assert_problem(response, 409, "conflict")
    assert receiver.received == []
    assert len(await _states(journey.owner)) == 1


async def test_enabled_service_does_not_enable_what_its_subscription_disabled(
    journey: Journey, as_admin: Door, receiver: Receiver
) -> None:
    services = journey.container.service_clients
    created = await (await as_service(journey, "billing")).create(receiver.url)
    await happen(journey, EventType.USER_CREATED)
    await as_admin("PATCH", f"/{created['id']}", {"status": "disabled"}, 200)

    await services.disable_service(TESTER, "billing")
    await services.enable_service(TESTER, "billing")

    assert await _states(journey.owner) == [("pending", False)]


async def test_service_that_becomes_an_admin_goes_on_hearing(journey: Journey, receiver: Receiver) -> None:
    await (await as_service(journey, "billing")).create(receiver.url)
    await journey.container.service_clients.set_permissions(TESTER, "billing", ["admin"])
    await happen(journey, EventType.USER_CREATED)

    await journey.container.events.deliveries.deliver_due(TESTER)

    assert len(receiver.received) == 1


async def test_deliveries_are_listed_by_state_in_pages(journey: Journey, as_admin: Door, receiver: Receiver) -> None:
    created = await as_admin.create(receiver.url)
    receiver.answers = [answer(500)]
    await happen(journey, EventType.USER_CREATED)
    await journey.container.events.deliveries.deliver_due(TESTER)
    await happen(journey, EventType.USER_UPDATED, EventType.USER_DELETED)
    await journey.container.events.deliveries.deliver_due(TESTER)

    first = await as_admin.deliveries(created["id"], "?limit=2")
    second = await as_admin.deliveries(created["id"], f"?limit=2&cursor={first['next_cursor']}")
    pending = await as_admin.deliveries(created["id"], "?state=pending")

    assert [one["sequence"] for one in first["items"] + second["items"]] == [3, 2, 1]
    assert [(one["sequence"], one["last_status"], one["attempts"]) for one in pending["items"]] == [(1, 500, 1)]
    assert pending["items"][0]["webhook_id"] == f"msg_{pending['items'][0]['event_id']}"


@pytest.mark.parametrize(
    ("wanted", "queued"),
    [
        ({}, ["user.created"]),
        ({"since": "2020-01-01T00:00:00Z"}, ["user.created", "user.updated", "user.deleted"]),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"event_ids": "second"}, ["user.updated"]),
    ],
)
async def test_replay_sends_again_under_the_old_ids(
    journey: Journey, as_admin: Door, receiver: Receiver, wanted: dict[str, Any], queued: list[str]
) -> None:
    created = await as_admin.create(receiver.url)
    await happen(journey, EventType.USER_CREATED, EventType.USER_UPDATED, EventType.USER_DELETED)
    await journey.container.events.deliveries.deliver_due(TESTER)
    await journey.owner.execute("UPDATE webhook_deliveries SET state = 'failed', attempts = 8 WHERE sequence = 1")
    before = {json.loads(one.body)["type"]: one for one in receiver.received}
    receiver.received.clear()
    if wanted.get("event_ids"):
        wanted = {"event_ids": [json.loads(before["user.updated"].body)["id"]]}

    replayed = await as_admin("POST", f"/{created['id']}/replay", wanted, 202)
    await journey.container.events.deliveries.deliver_due(TESTER)

    assert replayed.json() == {"queued": len(queued), "has_more": False, "next_since": None}
    again = {json.loads(one.body)["type"]: one for one in receiver.received}
    assert sorted(again) == sorted(queued)
    for kind, one in again.items():
        assert (one.headers["webhook-id"], one.body) == (before[kind].headers["webhook-id"], before[kind].body)


async def _fill(journey: Journey, subscription_id: str, *, failed: int, delivered: int) -> None:
    """Store deliveries of a subscription: `failed` that failed, followed by `delivered` that were accepted."""
    await journey.owner.execute(
        "INSERT INTO webhook_deliveries (id, subscription_id, event_id, event_type, sequence, body, state, attempts,"
        " created_at)"
        " SELECT gen_random_uuid(), $1, gen_random_uuid(), 'user.updated', n, '{}',"
        " CASE WHEN n <= $2 THEN 'failed' ELSE 'delivered' END, 8, now()"
        " FROM generate_series(1, $2::integer + $3::integer) AS n",
        subscription_id,
        failed,
        delivered,
    )


async def test_replay_of_more_failures_than_the_limit_goes_on_with_failures_alone(
    journey: Journey, as_admin: Door
) -> None:
    path = f"/{(created := await as_admin.create())['id']}/replay"
    await _fill(journey, created["id"], failed=MAX_REPLAYED + 1, delivered=2)

    first = (await as_admin("POST", path, {}, 202)).json()
    second = (await as_admin("POST", path, {}, 202)).json()

    assert first == {"queued": MAX_REPLAYED, "has_more": True, "next_since": None}
    assert second == {"queued": 1, "has_more": False, "next_since": None}
    assert (await _states(journey.owner))[-2:] == [("delivered", False)] * 2


async def test_replay_by_time_of_more_than_the_limit_says_since_when_to_go_on(journey: Journey, as_admin: Door) -> None:
    created = await as_admin.create()
    await _fill(journey, created["id"], failed=0, delivered=MAX_REPLAYED)
    wanted = {"since": "2020-01-01T00:00:00Z"}

    replayed = (await as_admin("POST", f"/{created['id']}/replay", wanted, 202)).json()

    newest = await journey.owner.fetchval("SELECT max(created_at) FROM webhook_deliveries")
    assert (replayed["queued"], replayed["has_more"]) == (MAX_REPLAYED, True)
    assert datetime.fromisoformat(replayed["next_since"]) == newest


async def test_audit_knows_the_host_and_no_more_of_a_url(journey: Journey, as_admin: Door) -> None:
    created = await as_admin.create("http://127.0.0.1:9/services/password?token=password")
    await as_admin("PATCH", f"/{created['id']}", {"url": "http://127.0.0.1:10/password"}, 200)

    rows = await journey.owner.fetch("SELECT changes::text FROM audit_details")

    assert rows
    assert all("password" not in row["changes"] for row in rows)


# The command line, on this test's own database


@pytest.fixture
def cli(servers: Servers, database_name: str, settings: Settings) -> CommandLine:
    return CommandLine(servers, database_name, settings)


async def _states(owner: "asyncpg.Connection[asyncpg.Record]") -> list[tuple[str, bool]]:
    """Return for each delivery, in order, its state and whether it has a time at which it is due."""
    rows = await owner.fetch("SELECT state, next_attempt_at FROM webhook_deliveries ORDER BY sequence")
    return [(row["state"], row["next_attempt_at"] is not None) for row in rows]


@pytest.mark.slow
async def test_operator_lists_shows_disables_enables_and_replays(
    journey: Journey, as_admin: Door, cli: CommandLine
) -> None:
    created = await as_admin.create(event_types=["user.*"])
    await happen(journey, EventType.USER_CREATED, EventType.USER_UPDATED)
    await journey.owner.execute("UPDATE webhook_deliveries SET state = 'failed', next_attempt_at = NULL")

    listed = cli("subscriptions", "list")
    shown = json.loads(cli("subscriptions", "show", created["id"]).stdout)
    disabled = cli("subscriptions", "disable", created["id"])
    refused = cli("subscriptions", "replay", created["id"], "--failed")
    enabled = cli("subscriptions", "enable", created["id"])
    replayed = cli("subscriptions", "replay", created["id"], "--failed")

    assert listed.stdout == f"{created['id']}\toperations\tactive\t-\tuser.*\t{ADDRESS}\n"
    assert [one["sequence"] for one in shown["deliveries"]] == [2, 1]
    assert "secret" not in shown
    assert [one.returncode for one in (disabled, refused, enabled, replayed)] == [0, 1, 0, 0], replayed.stderr
    assert "2 delivery(ies) queued" in replayed.stderr
    assert await _states(journey.owner) == [("pending", True)] * 2
    assert (await audit_actions(journey))[-3:] == [
        "webhook_subscription.updated",
        "webhook_subscription.updated",
        "webhook_subscription.replayed",
    ]


@pytest.mark.slow
async def test_operator_is_told_to_go_on_with_failures_alone(
    journey: Journey, as_admin: Door, cli: CommandLine
) -> None:
    created = await as_admin.create()
    await _fill(journey, created["id"], failed=MAX_REPLAYED, delivered=1)

    replayed = cli("subscriptions", "replay", created["id"], "--failed")

    assert "There may be more: go on with the same again" in replayed.stderr
    assert "--since" not in replayed.stderr


async def test_operator_replays_by_time_and_event_and_must_say_which(
    journey: Journey, as_admin: Door, cli: CommandLine
) -> None:
    created = await as_admin.create()
    await happen(journey, EventType.USER_CREATED, EventType.USER_UPDATED)
    event = (await as_admin.deliveries(created["id"]))["items"][0]["event_id"]
    path = ("subscriptions", "replay", created["id"])

    unsaid = cli(*path)
    by_event = cli(*path, "--event", event)
    by_time = cli(*path, "--since", "2020-01-01", "--until", "2020-01-02")

    assert unsaid.returncode == 2
    assert "1 delivery(ies) queued" in by_event.stderr
    assert "0 delivery(ies) queued" in by_time.stderr


async def test_operator_may_give_times_with_an_offset(journey: Journey, as_admin: Door, cli: CommandLine) -> None:
    created = await as_admin.create()
    await happen(journey, EventType.USER_CREATED)
    await journey.owner.execute("UPDATE webhook_deliveries SET created_at = '2026-01-01T00:30:00Z'")
    path = ("subscriptions", "replay", created["id"])

    with_offset = cli(*path, "--since", "2026-01-01T02:00:00+02:00", "--until", "2026-01-01T03:00:00+02:00")
    in_utc = cli(*path, "--since", "2026-01-01T00:00:00", "--until", "2026-01-01T01:00:00")

    assert "1 delivery(ies) queued" in with_offset.stderr
    assert "1 delivery(ies) queued" in in_utc.stderr
