"""The outbox relay: sends events to a Redis Stream, a channel and the webhooks, in order, at least once."""

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
"""How long an event can be sent again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """Where events go, and about how many the stream keeps. Every event names `source` as its origin; `admins` are
    the users whose subscriptions get all events."""

    source: str
    stream: str
    stream_length: int
    channel: str
    admins: frozenset[str]


@dataclass(kw_only=True, eq=False)
class OutboxService:
    """Relays events. Readers of Redis remove duplicates by the event's `id`; a webhook is queued exactly once."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    redis: RedisClient
    policy: OutboxPolicy
    start_slice: StartSlice

    async def relay(self, actor: Principal, _cursor: Any = None) -> None:
        """Slice: relay the unpublished events. If Redis does not answer, its error is raised, and the events remain."""
        time = self.start_slice()
        while time.may_begin():
            async with self.database.reading() as connection:
                rows = await outbox_queries.unpublished(connection, limit=BATCH)
            if not rows:
                return
            events = {row.seq: of_outbox(row, self.policy.source) for row in rows}
            # Redis comes first, since it may be told twice: after a crash from here on it is told again, while the
            # webhooks are queued once.
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
