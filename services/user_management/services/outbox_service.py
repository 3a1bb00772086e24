"""The outbox relay: what happened goes to a Redis Stream, in order, at least once."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import RowMapping

from services.user_management.database import Database
from services.user_management.queries import outbox as outbox_queries
from services.user_management.redis_client import RedisClient
from services.user_management.unit_of_work import UnitOfWorkFactory

BATCH: Final = 500
SLICE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """Where events go, and about how many are kept."""

    name: str
    length: int


class OutboxService:
    """Relays events; readers remove duplicates by the event's `id`."""

    def __init__(
        self, *, database: Database, unit_of_work: UnitOfWorkFactory, redis: RedisClient, stream: StreamPolicy
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._redis = redis
        self._stream = stream

    async def relay(self, _cursor: Any = None) -> None:
        """Slice: relay what is unpublished, for up to five seconds. Redis away raises; the rows stay."""
        ends = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < ends:
            async with self._database.reading() as connection:
                events = await outbox_queries.unpublished(connection, limit=BATCH)
            if not events:
                return
            await self._append(events)
            async with self._unit_of_work() as uow:
                await outbox_queries.mark_published(uow.connection, [event["seq"] for event in events])
            log.info("outbox.relayed", count=len(events))

    async def _append(self, events: Any) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for event in events:
                pipeline.xadd(self._stream.name, _fields(event), maxlen=self._stream.length, approximate=True)
            await pipeline.execute()


def _fields(event: RowMapping) -> dict[Any, Any]:
    return {
        "id": str(event["id"]),
        "seq": event["seq"],
        "type": event["event_type"],
        "subject": event["subject"],
        "time": event["occurred_at"].isoformat(),
        "data": json.dumps(event["payload"], separators=(",", ":")),
    }
