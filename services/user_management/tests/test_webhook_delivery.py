"""Tests of the sending of webhook deliveries: what receivers get, and when a delivery is tried again or given up."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import pytest

from services.user_management.container import Container
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import EventType
from services.user_management.exceptions import KeyUnavailableError
from services.user_management.integrations import webhook_sender
from services.user_management.integrations.webhook_sender import WebhookAnswer, WebhookSender
from services.user_management.queries import webhook_delivery
from services.user_management.queries.webhook_delivery import ClaimedDelivery
from services.user_management.schemas.webhook_subscription import (
    CreateSubscriptionRequest,
    ReplayRequest,
    SubscriptionUpdate,
)
from services.user_management.services.webhook_delivery_service import DELAYS_SECONDS, retry_delay
from services.user_management.tests.actors import TESTER
from services.user_management.tests.events import happened
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import audit_actions, only_row
from services.user_management.tests.webhook_receiver import Receiver, answer, receiving

ADMIN: Final = Principal(PrincipalKind.SERVICE, "operations", is_admin=True)
STATE: Final = "SELECT state, attempts, last_status, last_error, next_attempt_at FROM webhook_deliveries"


class Scene:
    """A receiver of webhooks, with methods that subscribe it, publish events and send the deliveries."""

    def __init__(self, journey: Journey, receiver: Receiver) -> None:
        self.journey = journey
        self.receiver = receiver
        self.container: Container = journey.container

    async def subscribe(self, url: str | None = None) -> tuple[UUID, str]:
        """Subscribe `url`, by default the receiver's, to all events; return the subscription's id and secret."""
        request = CreateSubscriptionRequest(url=url or self.receiver.url)
        created = await self.container.events.subscriptions.create_subscription(ADMIN, request)
        return created.id, created.secret

    async def happen(self, *event_types: EventType, **payload: Any) -> None:
        """Publish events, by default one `user.updated`, and relay them, so that their deliveries wait to be sent."""
        async with self.container.resources.unit_of_work(TESTER) as uow:
            for event_type in event_types or (EventType.USER_UPDATED,):
                uow.publish(happened(event_type, **payload))
        await self.container.events.outbox.relay(TESTER)

    async def deliver(self) -> None:
        await self.container.events.deliveries.deliver_due(TESTER)

    async def claim(self) -> ClaimedDelivery:
        """Claim the delivery that is due first, as another worker does."""
        async with self.container.resources.unit_of_work(TESTER) as uow:
            claimed = await webhook_delivery.claim_due(
                uow.connection, admins=[], busy=[], healthy_only=False, lease_seconds=30
            )
        assert claimed is not None
        return claimed

    async def pass_time(self, **interval: int) -> None:
        """Make all waiting deliveries due. With `hours`, also move the time since which subscriptions have been failing
        that far into the past."""
        await self.journey.owner.execute(
            "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL"
        )
        if interval:
            await self.journey.owner.execute(
                "UPDATE webhook_subscriptions SET failing_since = failing_since - make_interval(hours => $1)",
                interval["hours"],
            )

    async def state(self) -> dict[str, Any]:
        """Return the only delivery, with the columns of STATE."""
        return await only_row(self.journey, STATE)

    async def until(self, condition: str) -> None:
        """Wait until the SQL query `condition` returns true. Raises TimeoutError after ten seconds."""
        async with asyncio.timeout(10):
            for pause in itertools.repeat(0.01):
                if await self.journey.owner.fetchval(condition):
                    return
                await asyncio.sleep(pause)

    async def wait_seconds(self) -> float:
        """Return the seconds until the only delivery is tried again."""
        row = await only_row(
            self.journey, "SELECT extract(epoch FROM next_attempt_at - now())::float AS wait FROM webhook_deliveries"
        )
        return float(row["wait"])


def refuse_key(*_: object) -> str:
    raise KeyUnavailableError


@pytest.fixture
async def scene(journey: Journey) -> AsyncIterator[Scene]:
    await journey.container.service_clients.create_service(TESTER, ADMIN.id, ["admin"])
    async with receiving() as receiver:
        yield Scene(journey, receiver)


async def test_event_arrives_signed_as_independent_verifiers_accept_it(scene: Scene) -> None:
    _, secret = await scene.subscribe()
    await scene.happen(changed=["名前", "café"])

    await scene.deliver()

    (received,) = scene.receiver.received
    received.verify(secret)
    event = json.loads(received.body)
    assert received.line == "POST /hook HTTP/1.1"
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert received.headers["user-agent"] == "user-management-service"
    assert received.headers["webhook-id"] == f"msg_{event['id']}"
    assert event["type"] == "user.updated"
    assert event["data"] == {"user_id": "user_1", "changed": ["名前", "café"]}
    assert int(event["deliverysequence"]) == 1
    delivered = await scene.state()
    assert (delivered["state"], delivered["attempts"], delivered["last_status"]) == ("delivered", 1, 200)


async def test_what_was_delivered_is_not_sent_again(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen(EventType.USER_CREATED, EventType.USER_UPDATED)

    await scene.deliver()
    await scene.pass_time()
    await scene.deliver()

    assert len(scene.receiver.received) == 2


async def test_both_secrets_sign_while_a_rotation_overlaps(scene: Scene) -> None:
    subscription, first = await scene.subscribe()
    rotated = await scene.container.events.subscriptions.rotate_secret(ADMIN, subscription, overlap_seconds=600)
    await scene.happen()
    await scene.deliver()
    await scene.journey.owner.execute("UPDATE webhook_subscriptions SET former_secret_until = now()")
    await scene.happen()

    await scene.deliver()

    during, after = scene.receiver.received
    during.verify(first)
    during.verify(rotated.secret)
    after.verify(rotated.secret)
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    assert len(after.headers["webhook-signature"].split(" ")) == 1


async def test_failing_delivery_is_tried_eight_times_with_growing_pauses_then_given_up(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.otherwise = answer(500)

    pauses = []
    for _ in DELAYS_SECONDS:
        await scene.deliver()
        pauses.append(await scene.wait_seconds())
        await scene.pass_time()
    await scene.deliver()

    for pause, least in zip(pauses, (5, 300, 1800, 7200, 18_000, 36_000, 36_000), strict=True):
        # The time since the failure was recorded is short compared with the shortest pause.
        assert least * 0.5 < pause <= least * 1.1
    last = await scene.state()
    assert (last["state"], last["attempts"], last["next_attempt_at"]) == ("failed", 8, None)
    assert (last["last_status"], last["last_error"]) == (500, "refused")
    assert len({received.headers["webhook-id"] for received in scene.receiver.received}) == 1
    assert len({received.body for received in scene.receiver.received}) == 1


def test_pauses_have_up_to_a_tenth_of_jitter() -> None:
    pauses = [retry_delay(2, retry_after=None) for _ in range(200)]

    assert all(pause is not None and 300 <= pause <= 330 for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("status", "wish", "least", "most"), [(429, "120", 60, 120), (503, "999999999", 21_000, 21_600)]
)
async def test_receiver_that_asks_for_time_is_given_it_within_bounds(
    scene: Scene, status: int, wish: str, least: float, most: float
) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [answer(status, Retry_After=wish)]

    await scene.deliver()

    assert least < await scene.wait_seconds() <= most


async def test_retry_after_that_no_clock_can_show_is_a_failure_as_any_other(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [answer(503, Retry_After="Mon, 01 Jan 99999999999999999999 00:00:00 GMT")]

    await scene.deliver()

    failed = await scene.state()
    assert (failed["state"], failed["attempts"], failed["last_status"]) == ("pending", 1, 503)
    assert 0 < await scene.wait_seconds() <= 5.5


async def test_retry_after_never_makes_the_next_attempt_earlier(scene: Scene) -> None:
    assert (retry_delay(4, retry_after=1.0) or 0) >= 7200
    assert retry_delay(8, retry_after=1.0) is None


async def test_receiver_that_is_gone_disables_the_subscription_at_once(scene: Scene) -> None:
    subscription, _ = await scene.subscribe()
    await scene.happen(EventType.USER_CREATED)
    scene.receiver.answers = [answer(410)]

    await scene.deliver()

    found = await scene.container.events.subscriptions.get_subscription(ADMIN, subscription)
    assert (found.status, found.disabled_reason) == ("disabled", "gone")
    assert "webhook_subscription.disabled" in await audit_actions(scene.journey)
    waiting = await scene.state()
    assert (waiting["state"], waiting["next_attempt_at"]) == ("pending", None)


async def test_five_days_without_success_disable_and_enabling_sends_what_waits(scene: Scene) -> None:
    subscription, _ = await scene.subscribe()
    scene.receiver.otherwise = answer(503)
    await scene.happen()
    await scene.deliver()
    await scene.pass_time(hours=119)
    await scene.deliver()
    before = await scene.container.events.subscriptions.get_subscription(ADMIN, subscription)
    await scene.pass_time(hours=1)
    await scene.deliver()
    after = await scene.container.events.subscriptions.get_subscription(ADMIN, subscription)
    scene.receiver.otherwise = answer(200)
    await scene.pass_time()
    await scene.deliver()
    tried_while_disabled = len(scene.receiver.received)

    update = SubscriptionUpdate.model_validate({"status": "active"})
    await scene.container.events.subscriptions.update_subscription(ADMIN, subscription, update)
    await scene.deliver()

    assert before.status == "active"
    assert (after.status, after.disabled_reason) == ("disabled", "failing")
    assert tried_while_disabled == 3
    enabled = await scene.container.events.subscriptions.get_subscription(ADMIN, subscription)
    assert (enabled.status, enabled.disabled_reason, enabled.failing_since) == ("active", None, None)
    assert (await scene.state())["state"] == "delivered"


async def test_one_success_ends_the_count_of_failures(scene: Scene) -> None:
    subscription, _ = await scene.subscribe()
    scene.receiver.answers = [answer(500)]
    await scene.happen()
    await scene.deliver()
    await scene.pass_time(hours=200)

    await scene.deliver()

    found = await scene.container.events.subscriptions.get_subscription(ADMIN, subscription)
    assert (found.status, found.failing_since) == ("active", None)


async def test_worker_that_dies_while_sending_is_followed_by_another_with_the_same_id(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [None]
    dying = asyncio.create_task(scene.deliver())
    await scene.receiver.arrived.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)

    await scene.deliver()
    while_leased = len(scene.receiver.received)
    lease = await scene.wait_seconds()
    await scene.pass_time()
    await scene.deliver()

    assert while_leased == 1
    assert 0 < lease <= 30
    assert [received.headers["webhook-id"] for received in scene.receiver.received] == [
        scene.receiver.received[0].headers["webhook-id"]
    ] * 2
    assert (await scene.state())["state"] == "delivered"


async def test_late_word_of_a_failure_does_not_undo_a_delivery(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [None]
    late = asyncio.create_task(scene.deliver())
    await scene.receiver.arrived.wait()
    await scene.pass_time()

    await scene.deliver()
    await scene.receiver.end()
    await late

    state = await scene.state()
    assert (state["state"], state["last_error"], state["next_attempt_at"]) == ("delivered", None, None)


async def test_late_word_of_a_failure_does_not_shorten_the_wait_that_a_later_worker_set(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [None]
    late = asyncio.create_task(scene.deliver())
    await scene.receiver.arrived.wait()
    await scene.pass_time()

    with monkeypatch.context() as patched:
        patched.setattr(scene.container.keys.vault, "open", refuse_key)
        await scene.deliver()
    await scene.receiver.end()
    await late

    waiting = await scene.state()
    assert (waiting["attempts"], waiting["last_error"]) == (1, "key_unavailable")


async def test_late_word_of_a_failure_does_not_end_the_lease_of_a_replay(scene: Scene) -> None:
    subscription, _ = await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [None]
    late = asyncio.create_task(scene.deliver())
    await scene.receiver.arrived.wait()
    event = await scene.journey.owner.fetchval("SELECT event_id FROM webhook_deliveries")
    wanted = ReplayRequest(event_ids=[event])
    await scene.container.events.subscriptions.replay(ADMIN, subscription, wanted)
    claimed = await scene.claim()

    await scene.receiver.end()
    await late

    held = await scene.state()
    assert (held["attempts"], held["last_error"], held["next_attempt_at"]) == (1, None, claimed.leased_until)


async def test_workers_at_the_same_time_send_each_event_once(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen(*[EventType.USER_UPDATED] * 30)

    await asyncio.gather(*(scene.deliver() for _ in range(3)))

    ids = [received.headers["webhook-id"] for received in scene.receiver.received]
    assert len(ids) == len(set(ids)) == 30


async def test_receiver_that_hangs_delays_nobody_else(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_sender, "TOTAL_SECONDS", 3.0)
    async with receiving() as hanging:
        hanging.otherwise = None
        await scene.subscribe(hanging.url)
        await scene.happen(*[EventType.USER_UPDATED] * 10)
        await scene.subscribe()
        await scene.happen(*[EventType.USER_CREATED] * 10)

        slice_ = asyncio.create_task(scene.deliver())
        while len(scene.receiver.received) < 10:
            scene.receiver.arrived.clear()
            await scene.receiver.arrived.wait()
        stuck_meanwhile = hanging.connections
        slice_.cancel()
        await asyncio.gather(slice_, return_exceptions=True)

    assert stuck_meanwhile == 2


async def test_delivery_that_breaks_our_code_costs_the_others_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.subscribe("http://127.0.0.1:9/breaks")
    await scene.subscribe()
    await scene.happen()
    scene.receiver.may_answer.clear()
    send = WebhookSender.send

    async def break_while_another_is_under_way(sender: WebhookSender, url: str, **message: Any) -> WebhookAnswer:
        if not url.endswith("/breaks"):
            return await send(sender, url, **message)
        await scene.receiver.arrived.wait()
        scene.receiver.may_answer.set()
        raise ArithmeticError("of a kind that nobody thought of")

    monkeypatch.setattr(WebhookSender, "send", break_while_another_is_under_way)

    await scene.deliver()
    await scene.deliver()

    assert len(scene.receiver.received) == 1
    rows = await scene.journey.owner.fetch(f"{STATE} ORDER BY state")
    found = [(row["state"], row["attempts"], row["last_error"]) for row in rows]
    assert found == [("delivered", 1, None), ("pending", 1, "internal_error")]


async def test_failure_that_cannot_be_recorded_is_tried_again_and_costs_the_others_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as failing:
        failing.otherwise = answer(500)
        await scene.subscribe(failing.url)
        await scene.subscribe()
        await scene.happen()

        with monkeypatch.context() as patched:
            patched.setattr(webhook_delivery, "mark_failed", None)
            await scene.deliver()
        rows = await scene.journey.owner.fetch(f"{STATE} ORDER BY state")
        await scene.pass_time()
        await scene.deliver()

    assert [(row["state"], row["attempts"], row["last_error"]) for row in rows] == [
        ("delivered", 1, None),
        ("pending", 1, None),
    ]
    assert (len(failing.received), len(scene.receiver.received)) == (2, 1)


@pytest.mark.slow
async def test_slice_goes_on_when_everything_under_way_ends_during_a_claim(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen(*[EventType.USER_UPDATED] * 3)
    scene.receiver.may_answer.clear()
    slice_ = asyncio.create_task(scene.deliver())
    while len(scene.receiver.received) < 2:
        scene.receiver.arrived.clear()
        await scene.receiver.arrived.wait()

    # A claim reads the table of services, and recording a result does not. So the next claim waits, and leaves out the
    # subscriptions that are busy when it begins.
    async with scene.journey.owner.transaction():
        await scene.journey.owner.execute("LOCK TABLE service_clients IN ACCESS EXCLUSIVE MODE")
        await scene.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        scene.receiver.may_answer.set()
        await scene.until("SELECT count(*) = 2 FROM webhook_deliveries WHERE state = 'delivered'")
    await slice_

    assert len(scene.receiver.received) == 3


async def test_failing_receivers_leave_room_for_others(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as hanging:
        hanging.otherwise = None
        for _ in range(6):
            await scene.subscribe(hanging.url)
        await scene.journey.owner.execute("UPDATE webhook_subscriptions SET failing_since = now()")
        await scene.happen(EventType.USER_CREATED, EventType.USER_UPDATED)
        await scene.subscribe()
        await scene.happen(EventType.USER_DELETED)

        slice_ = asyncio.create_task(scene.deliver())
        await scene.receiver.arrived.wait()
        failing_meanwhile = hanging.connections
        slice_.cancel()
        await asyncio.gather(slice_, return_exceptions=True)

    assert failing_meanwhile <= 4


async def test_key_that_this_process_does_not_hold_uses_up_no_attempt(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.subscribe()
    await scene.happen()

    with monkeypatch.context() as patched:
        patched.setattr(scene.container.keys.vault, "open", refuse_key)
        await scene.deliver()
    waiting = await scene.state()
    await scene.pass_time()
    await scene.deliver()

    assert (waiting["state"], waiting["attempts"], waiting["last_error"]) == ("pending", 0, "key_unavailable")
    assert (await scene.state())["state"] == "delivered"


async def test_secret_that_cannot_be_read_is_a_failure_and_nothing_is_sent(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    await scene.journey.owner.execute(
        "UPDATE webhook_subscriptions SET secret_ciphertext = secret_ciphertext || '\\x00'"
    )

    await scene.deliver()

    assert scene.receiver.received == []
    assert (await scene.state())["last_error"] == "secret_unreadable"


async def test_subscription_that_is_removed_while_sending_leaves_nothing(scene: Scene) -> None:
    subscription, _ = await scene.subscribe()
    await scene.happen()
    scene.receiver.answers = [None]
    sending = asyncio.create_task(scene.deliver())
    await scene.receiver.arrived.wait()

    await scene.container.events.subscriptions.delete_subscription(ADMIN, subscription)
    await scene.receiver.end()
    await sending

    assert await scene.journey.owner.fetchval("SELECT count(*) FROM webhook_deliveries") == 0


async def test_address_that_became_private_is_not_called(scene: Scene) -> None:
    await scene.subscribe()
    await scene.happen()
    await scene.journey.owner.execute("UPDATE webhook_subscriptions SET url = 'http://169.254.169.254/latest'")

    await scene.deliver()

    failed = await scene.state()
    assert (failed["last_error"], failed["last_status"]) == ("address_refused", None)
