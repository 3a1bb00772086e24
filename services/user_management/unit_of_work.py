"""The unit of work: one transaction, in which a change, its audit rows (who did what to what), its outbox rows (events
for others) and its counters are committed together or not at all."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.clock import Clock
from services.user_management.core.context import current_context
from services.user_management.core.ids import uuid7
from services.user_management.core.integration_counts import IntegrationCount
from services.user_management.core.principal import Principal
from services.user_management.database import ormar_database
from services.user_management.models import AuditDetail, AuditLog, OutboxEvent
from services.user_management.queries import integration_counter
from services.user_management.schemas.events import UserEvent

Kept = TypeVar("Kept", bound=Exception)
Rows = list[dict[str, Any]]


@dataclass
class UnitOfWork:
    """The object that a use case holds while its transaction is open, which collects audit rows, events and counts
    until the commit. Whatever the use case does with ormar models is part of the transaction."""

    connection: AsyncConnection
    clock: Clock
    actor: Principal
    """The principal on whose behalf everything in this unit of work is done."""
    _kept: Exception | None = None
    _audit_rows: Rows = field(default_factory=list)
    _detail_rows: Rows = field(default_factory=list)
    _outbox_rows: Rows = field(default_factory=list)
    _counts: list[IntegrationCount] = field(default_factory=list)

    def audit(
        self, action: str, *, target: tuple[str, str], user_id: str | None, changes: Mapping[str, Any] | None = None
    ) -> None:
        """Write an audit row at the commit: the actor did `action` to `target` (type, id), which concerns `user_id`
        (None: no user); `changes` maps a field to [old, new]."""
        context = current_context()
        row_id = uuid7()
        self._audit_rows.append(
            {
                "id": row_id,
                "occurred_at": self.clock.now(),
                "action": action,
                "actor_kind": self.actor.kind.value,
                "actor_id": self.actor.id,
                "impersonator": self.actor.impersonator,
                "user_id": user_id,
                "target_type": target[0],
                "target_id": target[1],
                "ip_address": context.ip_address,
                "request_id": context.request_id,
                "trace_id": context.trace_id,
            }
        )
        if changes:
            self._detail_rows.append({"id": row_id, "user_id": user_id, "changes": dict(changes)})

    def publish(self, event: UserEvent) -> None:
        """Write `event` to the outbox at the commit; it is then sent to Redis and to webhook subscriptions."""
        self._outbox_rows.append(
            {
                "id": uuid7(),
                "event_type": event.event_type.value,
                "subject": event.user_id,
                "payload": event.model_dump(mode="json"),
                "occurred_at": self.clock.now(),
            }
        )

    def count(self, counted: IntegrationCount) -> None:
        """Add one to `counted`, a counter that `/metrics` shows, at the commit."""
        self._counts.append(counted)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """If the block raises an error, undo what it did, with its audit rows, events and counters, and let the error
        propagate; the rest of the transaction stays."""
        collected: tuple[list[Any], ...] = (self._audit_rows, self._detail_rows, self._outbox_rows, self._counts)
        lengths = [len(rows) for rows in collected]
        try:
            async with ormar_database.transaction():
                yield
        except BaseException:
            for rows, length in zip(collected, lengths, strict=True):
                del rows[length:]
            raise

    def keep(self, error: Kept) -> Kept:
        """Mark `error`, so that `raise uow.keep(error)` commits what was written and only then lets `error` out of the
        unit of work: for refusals that must be recorded. Any other error rolls the transaction back."""
        self._kept = error
        return error

    def is_kept(self, error: Exception) -> bool:
        """Tell whether `error` was marked by `keep`."""
        return error is self._kept

    async def flush(self) -> None:
        """Write the collected audit rows, events and counters; the factory calls this once, just before the commit."""
        for model, rows in (
            (AuditLog, self._audit_rows),
            (AuditDetail, self._detail_rows),
            (OutboxEvent, self._outbox_rows),
        ):
            if rows:
                await self.connection.execute(sa.insert(model.ormar_config.table), rows)
        if self._counts:
            await integration_counter.add(self.connection, Counter(self._counts))


class UnitOfWorkFactory(Protocol):
    """The type of the factory that use cases get; they use it as `async with self.unit_of_work(actor) as uow`."""

    def __call__(self, actor: Principal) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a transaction in which `actor` acts: committed when the block ends, rolled back if it raises an error
        that was not marked by `keep`. Raises RuntimeError inside another unit of work."""


def unit_of_work_factory(clock: Clock) -> UnitOfWorkFactory:
    """Return the factory of units of work in this process's database."""

    @asynccontextmanager
    async def unit_of_work(actor: Principal) -> AsyncIterator[UnitOfWork]:
        if ormar_database.get_transaction_connection() is not None:
            raise RuntimeError("a unit of work inside a unit of work: make the inner one a step that takes `uow`")
        kept: Exception | None = None
        async with ormar_database.transaction():
            connection = ormar_database.get_transaction_connection()
            assert connection is not None  # noqa: S101 - set by the line above
            # Transactions begin as READ ONLY; this is the one place that opens one for writing.
            await ormar_database.open_for_writing(connection)
            uow = UnitOfWork(connection, clock, actor)
            try:
                yield uow
            except Exception as error:
                if not uow.is_kept(error):
                    raise
                kept = error
            await uow.flush()
        if kept is not None:
            raise kept

    return unit_of_work
