"""Tests of the relay of outbox events as CloudEvents: to a Redis stream, to a channel, and as one delivery to each
subscription to their type; and of their removal five weeks later."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import jsonschema_rs
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat

from services.user_management.container import Container
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import EventType
from services.user_management.redis_client import RedisError, create_redis_client
from services.user_management.schemas.webhook_subscription import CreateSubscriptionRequest
from services.user_management.services.outbox_service import OutboxPolicy, OutboxService
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import API_URL
from services.user_management.tests.events import happened
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/cloudevents.json, without its descriptions.
TEXT: Final = {"type": "string", "minLength": 1}
PUBLISHED_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "id": TEXT,
        "source": {**TEXT, "format": "uri-reference"},
        "specversion": TEXT,
        "type": TEXT,
        "datacontenttype": {"type": ["string", "null"], "minLength": 1},
        "dataschema": {"type": ["string", "null"], "format": "uri", "minLength": 1},
        "subject": {"type": ["string", "null"], "minLength": 1},
        "time": {"type": ["string", "null"], "format": "date-time", "minLength": 1},
        "data": {"type": ["object", "string", "number", "array", "boolean", "null"]},
        "data_base64": {"type": ["string", "null"], "contentEncoding": "base64"},
    },
    "required": ["id", "source", "specversion", "type"],
}
ADMIN: Final = Principal(PrincipalKind.SERVICE, "operations", is_admin=True)

Publish = Callable[..., Any]


def of_service(name: str) -> Principal:
    return Principal(PrincipalKind.SERVICE, name)


async def create_admin(container: Container) -> None:
    await container.service_clients.create_service(TESTER, ADMIN.id, ["admin"])


@pytest.fixture
async def publish(clean_database: None, container: Container) -> Publish:
    """Give a function that writes events to the outbox, in one transaction, as a use case does. The stream is empty,
    and `ADMIN` can subscribe."""
    await create_admin(container)
    await container.resources.redis.delete(container.resources.settings.redis.stream)

    async def write(*event_types: EventType, **payload: Any) -> None:
        async with container.resources.unit_of_work(TESTER) as uow:
            for event_type in event_types:
                uow.publish(happened(event_type, **payload))

    return write


async def subscribe(container: Container, *event_types: str, owner: Principal = ADMIN) -> UUID:
    """Make a subscription to an address where nobody listens, and return its id. These tests send no deliveries."""
    request = CreateSubscriptionRequest(url="http://127.0.0.1:9/", event_types=list(event_types))
    return (await container.events.subscriptions.create_subscription(owner, request)).id


async def queued(journey: Journey, subscription_id: UUID) -> list[tuple[int, str]]:
    """Return the number and event type of each delivery of the subscription, in the order of the numbers."""
    rows = await journey.owner.fetch(
        "SELECT sequence, event_type FROM webhook_deliveries WHERE subscription_id = $1 ORDER BY sequence",
        subscription_id,
    )
    return [(row["sequence"], row["event_type"]) for row in rows]


@asynccontextmanager
async def listening(container: Container) -> AsyncIterator[Callable[[], Any]]:
    """Subscribe to the Redis channel of events, and give a function that returns its next message; it fails if none
    comes in five seconds."""
    async with container.resources.redis.pubsub() as channel:
        await channel.subscribe(container.resources.settings.redis.channel)
        assert (await channel.get_message(timeout=5))["type"] == "subscribe"

        async def next_message() -> str:
            message = await channel.get_message(timeout=5)
            assert message is not None
            return str(message["data"])

        yield next_message


async def test_channel_carries_valid_cloud_events(container: Container, publish: Publish) -> None:
    await publish(EventType.USER_UPDATED, changed=["naïve", "日本"])

    async with listening(container) as next_message:
        await container.events.outbox.relay(TESTER)
        text = await next_message()

    event = json.loads(text)
    jsonschema_rs.Draft7Validator(PUBLISHED_SCHEMA, validate_formats=True).validate(event)
    message = HTTPMessage({"content-type": "application/cloudevents+json"}, text.encode())
    parsed = from_http_event(message, JSONFormat())
    assert (parsed.get_type(), parsed.get_source(), parsed.get_subject()) == ("user.updated", API_URL, "user_1")
    assert parsed.get_data() == {"user_id": "user_1", "changed": ["naïve", "日本"]}


async def test_stream_has_a_field_for_each_attribute_and_data_as_json(container: Container, publish: Publish) -> None:
    await publish(EventType.USER_CREATED, EventType.USER_UPDATED)

    await container.events.outbox.relay(TESTER)

    found: Any = await container.resources.redis.xrange(container.resources.settings.redis.stream)
    entries = [fields for _, fields in found]
    assert [set(fields) for fields in entries] == [
        {
            *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "sequence", "data"),
            "seq",
        }
    ] * 2
    assert json.loads(entries[0]["data"]) == {"user_id": "user_1"}
    numbers = [fields["sequence"] for fields in entries]
    assert numbers == sorted(numbers)
    assert [int(number) for number in numbers] == [int(fields["seq"]) for fields in entries]


async def test_events_of_a_whole_journey_hold_no_personal_value(container: Container, connected: Connected) -> None:
    await container.resources.redis.delete(container.resources.settings.redis.stream)
    await create_admin(container)
    subscription = await subscribe(container)

    await container.events.outbox.relay(TESTER)

    entries = str(await container.resources.redis.xrange(container.resources.settings.redis.stream))
    rows = await connected.journey.owner.fetch("SELECT body FROM webhook_deliveries")
    told = entries + "".join(row["body"] for row in rows)
    assert {kind for _, kind in await queued(connected.journey, subscription)} >= {
        "user.created",
        "integration.connected",
    }
    assert connected.person.email not in told
    assert "Ada" not in told


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ([], ["user.created", "integration.connected", "user.deleted"]),
        (["user.*"], ["user.created", "user.deleted"]),
        (["integration.*"], ["integration.connected"]),
        (["user.deleted", "integration.connected"], ["integration.connected", "user.deleted"]),
        (["user.restored"], []),
    ],
)
async def test_subscription_is_told_what_it_named_in_order_and_without_gaps(
    journey: Journey, container: Container, publish: Publish, wanted: list[str], told: list[str]
) -> None:
    subscription = await subscribe(container, *wanted)
    await publish(EventType.USER_CREATED, EventType.INTEGRATION_CONNECTED, EventType.USER_DELETED)

    await container.events.outbox.relay(TESTER)

    assert await queued(journey, subscription) == list(enumerate(told, start=1))


async def test_service_is_told_of_users_and_of_connections_to_its_own_providers(
    journey: Journey, container: Container, publish: Publish
) -> None:
    await journey.service_key("sandbox-static", name="calendar")
    await container.service_clients.set_permissions(TESTER, "calendar", ["webhooks:manage"])
    subscription = await subscribe(container, owner=of_service("calendar"))
    await publish(EventType.INTEGRATION_DEGRADED, provider="sandbox-static")
    await publish(EventType.INTEGRATION_REVOKED, provider="sandbox-strict")
    await publish(EventType.USER_DELETED)

    await container.events.outbox.relay(TESTER)

    assert await queued(journey, subscription) == [(1, "integration.degraded"), (2, "user.deleted")]


async def test_disabled_subscription_and_disabled_service_are_told_nothing(
    journey: Journey, container: Container, publish: Publish
) -> None:
    await journey.service_key(name="calendar")
    await container.service_clients.set_permissions(TESTER, "calendar", ["webhooks:manage"])
    shut_out = await subscribe(container, owner=of_service("calendar"))
    disabled = await subscribe(container)
    await container.service_clients.disable_service(TESTER, "calendar")
    await journey.owner.execute("UPDATE webhook_subscriptions SET status = 'disabled' WHERE id = $1", disabled)
    await publish(EventType.USER_CREATED)

    await container.events.outbox.relay(TESTER)

    assert (await queued(journey, shut_out), await queued(journey, disabled)) == ([], [])


async def test_relays_at_the_same_time_queue_each_event_once_in_order_without_gaps(
    journey: Journey, container: Container, publish: Publish
) -> None:
    subscriptions = [await subscribe(container), await subscribe(container, "user.*")]
    for _ in range(40):
        await publish(EventType.USER_UPDATED, EventType.INTEGRATION_DEGRADED)

    await asyncio.gather(*(container.events.outbox.relay(TESTER) for _ in range(4)))

    for subscription, expected in zip(subscriptions, (80, 40), strict=True):
        rows = await journey.owner.fetch(
            "SELECT d.sequence, e.seq FROM webhook_deliveries d JOIN outbox_events e ON e.id = d.event_id"
            " WHERE d.subscription_id = $1 ORDER BY d.sequence",
            subscription,
        )
        assert [row["sequence"] for row in rows] == list(range(1, expected + 1))
        assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
        number = await journey.owner.fetchval(
            "SELECT last_sequence FROM webhook_subscriptions WHERE id = $1", subscription
        )
        assert number == expected


async def test_redis_that_is_away_loses_and_doubles_no_delivery(
    journey: Journey, container: Container, publish: Publish
) -> None:
    subscription = await subscribe(container)
    redis = create_redis_client("redis://127.0.0.1:1/0")
    policy = OutboxPolicy(source=API_URL, stream="s", stream_length=100, channel="c", admins=frozenset())
    cut_off = OutboxService(
        database=container.resources.database,
        unit_of_work=container.resources.unit_of_work,
        redis=redis,
        policy=policy,
        start_slice=container.resources.start_slice,
    )
    await publish(EventType.USER_CREATED)

    with pytest.raises(RedisError):
        await cut_off.relay(TESTER)
    while_away = await queued(journey, subscription)
    await container.events.outbox.relay(TESTER)

    assert while_away == []
    assert await queued(journey, subscription) == [(1, "user.created")]
    await redis.aclose()


async def test_relay_that_dies_after_redis_was_told_queues_each_delivery_once(
    journey: Journey, container: Container, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await subscribe(container)
    await publish(EventType.USER_CREATED, EventType.USER_UPDATED)

    async def die(*_: Any, **_options: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr("services.user_management.services.outbox_service.fan_out", die)
        with pytest.raises(asyncio.CancelledError):
            await container.events.outbox.relay(TESTER)
    await container.events.outbox.relay(TESTER)

    entries: Any = await container.resources.redis.xrange(container.resources.settings.redis.stream)
    assert Counter(fields["type"] for _, fields in entries) == {"user.created": 2, "user.updated": 2}
    assert await queued(journey, subscription) == [(1, "user.created"), (2, "user.updated")]


async def test_maintenance_forgets_what_was_told_five_weeks_ago(
    journey: Journey, container: Container, publish: Publish
) -> None:
    await subscribe(container)
    await publish(EventType.USER_CREATED, EventType.USER_UPDATED, EventType.USER_DELETED)
    await container.events.outbox.relay(TESTER)
    await publish(EventType.USER_RESTORED)
    # An id begins with the time at which it was made, in milliseconds; these begin with a time in 2020.
    old = "('016f5e66-e800-7' || right(id::text, 21))::uuid"
    await journey.owner.execute(f"UPDATE outbox_events SET id = {old} WHERE event_type <> 'user.updated'")  # noqa: S608 - from the line above
    await journey.owner.execute(f"UPDATE webhook_deliveries SET id = {old} WHERE event_type <> 'user.updated'")  # noqa: S608 - from the line above
    await journey.owner.execute("UPDATE webhook_deliveries SET state = 'delivered' WHERE event_type <> 'user.deleted'")

    await container.jobs.upkeep.maintain_tables(TESTER, None)

    events = await journey.owner.fetch("SELECT event_type FROM outbox_events ORDER BY seq")
    deliveries = await journey.owner.fetch("SELECT event_type FROM webhook_deliveries ORDER BY sequence")
    assert [row["event_type"] for row in events] == ["user.updated", "user.restored"]
    assert [row["event_type"] for row in deliveries] == ["user.updated", "user.deleted"]
