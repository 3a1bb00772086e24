"""The outbox relay: takes the events that were stored in the transaction of their change, sends each at least once to
a Redis Stream and a Redis channel, the oldest first, and queues it for the webhook subscriptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.queries import outbox as outbox_queries
from services.user_management.redis_client import RedisClient
from services.user_management.services.cloud_events import CloudEvent, attribute_fields, of_outbox, structured
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.webhook_fan_out import fan_out
from services.user_management.unit_of_work import UnitOfWorkFactory

BATCH: Final = 500
EVENT_PRUNING: Final = Pruning(timedelta(days=35), outbox_queries.prune)
"""How long events are kept that have been relayed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """Where events go: the Redis Stream `stream`, which keeps about the newest `stream_length` of them, and `channel`.

    Every event names `source` as its origin. `admins` are the ids of the users who are administrators: of users, only
    their subscriptions get events.
    """

    source: str
    stream: str
    stream_length: int
    channel: str
    admins: frozenset[str]


@dataclass(kw_only=True, eq=False)
class OutboxService:
    """Relays events. Redis can get an event twice, so its readers have to drop duplicates by the event's `id`; for each
    webhook subscription it is queued exactly once."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    redis: RedisClient
    policy: OutboxPolicy
    start_slice: StartSlice

    async def relay(self, actor: Principal, _cursor: Any = None) -> None:
        """Slice (a few seconds of the job): relay the events that have not been relayed, the oldest first, until none
        is left or the time is over.

        Raises RedisError if Redis does not answer; the events are then relayed later.
        """
        time = self.start_slice()
        while time.may_begin():
            async with self.database.reading() as connection:
                rows = await outbox_queries.unpublished(connection, limit=BATCH)
            if not rows:
                return
            events = {row.seq: of_outbox(row, self.policy.source) for row in rows}
            # Redis comes first, since it may get an event twice: after a crash from here on the events are sent to it
            # again, while the webhooks are queued once.
            await self._tell_redis(list(events.values()), list(events))
            async with self.unit_of_work(actor) as uow:
                mine = await outbox_queries.mark_published(uow.connection, list(events))
                news = [event for seq, event in events.items() if seq in mine]
                deliveries = await fan_out(uow, news, admins=self.policy.admins)
            log.info("outbox.relayed", count=len(mine), deliveries=deliveries)

    async def _tell_redis(self, events: Sequence[CloudEvent], sequence_numbers: Sequence[int]) -> None:
        policy = self.policy
        async with self.redis.pipeline(transaction=False) as pipeline:
            for event, seq in zip(events, sequence_numbers, strict=True):
                entry: dict[Any, Any] = {**attribute_fields(event), "seq": seq}
                pipeline.xadd(policy.stream, entry, maxlen=policy.stream_length, approximate=True)
                pipeline.publish(policy.channel, structured(event))
            await pipeline.execute()
