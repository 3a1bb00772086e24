"""The inbox of events from upstream (the identity provider, Clerk): each message is stored once, and applied in the
same transaction.

An event that cannot be applied is stored all the same, with its error, and is tried again by a job. Clerk's request
succeeds, since sending the event again would not help.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from services.user_management.core.failpoints import Failpoint, failpoint
from services.user_management.core.ids import uuid7
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal, system
from services.user_management.database import Database, is_unavailable
from services.user_management.exceptions import NotFoundError, ValidationFailedError
from services.user_management.logging_config import summarize_error
from services.user_management.queries import webhook as webhook_queries
from services.user_management.queries.webhook import ListedEvent, NewEvent, StoredEvent
from services.user_management.schemas.webhook import ClerkEvent, WebhookAccepted
from services.user_management.services.clerk_events import read_session, read_user, subject_of
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.table_upkeep import Pruning
from services.user_management.services.user_service import UpstreamUsers, UserStates
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

SOURCE: Final = "clerk"
BACKOFF: Final = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 21_600, 86_400))
"""The pauses between the attempts to apply an event that fails. When all are used up, it is applied only if an operator
replays it."""
INBOX_PRUNING: Final = Pruning(timedelta(days=35), webhook_queries.prune)
"""How long applied events are kept, so that a repeated one is recognised: Svix lets operators send a message again
weeks later, under its old id."""
_USER_EVENTS: Final = frozenset({"user.created", "user.updated"})

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class WebhookService:
    """Stores Clerk's events, applies them to our users, and lists and replays stored ones."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    upstream: UpstreamUsers
    states: UserStates
    issuer: str
    instance_id: str | None
    start_slice: StartSlice

    async def receive_clerk_event(self, message_id: str, event: ClerkEvent, payload: JSONObject) -> WebhookAccepted:
        """Store a verified event and apply it, unless an event with this message id is stored already. The result says
        whether one was (`duplicate`), and whether the event is applied by now.

        Events of unknown types are stored and have no effect: if they were refused, Clerk would only send them again.
        If `instance_id` is set, raises ValidationFailedError for an event of another Clerk instance."""
        if self.instance_id is not None and event.instance_id != self.instance_id:
            raise ValidationFailedError("The event is of another Clerk instance.")
        async with self.unit_of_work(system(SOURCE)) as uow:
            event_id = uuid7()
            stored = NewEvent(
                id=event_id,
                source=SOURCE,
                message_id=message_id,
                event_type=event.type,
                subject=subject_of(event.type, event.data),
                payload=payload,
                received_at=uow.clock.now(),
            )
            if not await webhook_queries.insert_event(uow.connection, stored):
                applied = await webhook_queries.is_applied(uow.connection, source=SOURCE, message_id=message_id)
                return WebhookAccepted(duplicate=True, applied=applied)
            failpoint(Failpoint.WEBHOOK_STORED)
            applied = await self._attempt(uow, event_id, event, attempts=1)
            failpoint(Failpoint.WEBHOOK_APPLIED)
        failpoint(Failpoint.WEBHOOK_COMMITTED)
        self._forget_state(stored)
        return WebhookAccepted(duplicate=False, applied=applied)

    async def retry_due(self, actor: Principal, _cursor: Any = None) -> None:
        """Slice: try again to apply the failed events that are due, until none is left or the time is over."""
        time = self.start_slice()
        while time.may_begin():
            async with self.unit_of_work(actor) as uow:
                row = await webhook_queries.lock_due_event(uow.connection)
                if row is None:
                    return
                await self._try_again(uow, row)
            self._forget_state(row)

    async def replay(self, actor: Principal, event_id: UUID) -> bool:
        """Apply a stored event (again), and return whether it is applied now; if not, its error is stored with it. An
        event that was applied before has no further effect.

        Raises NotFoundError if there is no such event, or its content was erased with its user.
        """
        async with self.unit_of_work(actor) as uow:
            row = await webhook_queries.lock_event(uow.connection, event_id)
            if row is None:
                raise NotFoundError(f"There is no event {event_id}.")
            applied = await self._try_again(uow, row)
        self._forget_state(row)
        return applied

    async def list_events(
        self, _actor: Principal, *, failed_only: bool, subject: str | None, limit: int
    ) -> list[ListedEvent]:
        """List the newest events without their payloads, at most `limit`: with `failed_only` only those that are not
        applied, with `subject` only those about that Clerk user."""
        async with self.database.reading() as connection:
            return await webhook_queries.list_events(connection, failed_only=failed_only, subject=subject, limit=limit)

    async def failed_events(self, _actor: Principal) -> Sequence[UUID]:
        """List the ids of all events that are not applied, the oldest first."""
        async with self.database.reading() as connection:
            return await webhook_queries.failed_events(connection)

    async def get_event(self, _actor: Principal, event_id: UUID) -> StoredEvent:
        """Return one event with its payload, which is empty if it was erased with its user. Raises NotFoundError."""
        async with self.database.reading() as connection:
            row = await webhook_queries.read_event(connection, event_id)
        if row is None:
            raise NotFoundError(f"There is no event {event_id}.")
        return row

    def _forget_state(self, row: NewEvent | StoredEvent) -> None:
        """If the event is of a type `user.…`, let this process read the state of its user from the database again.
        Other events do not change what a user may do."""
        if row.event_type.startswith("user.") and row.subject:
            self.states.forget_subject(self.issuer, row.subject)

    async def _try_again(self, uow: UnitOfWork, row: StoredEvent) -> bool:
        if not row.payload:
            raise NotFoundError("The event's content was erased with its user.")
        await webhook_queries.count_attempt(uow.connection, row.id)
        attempts = row.attempts + 1
        try:
            event = ClerkEvent.model_validate(row.payload)
        except ValidationError as error:
            # Another release stored it and could read it. The error is not raised, since it would block later events.
            await self._keep_failed(uow, row.id, row.event_type, error, attempts=attempts)
            return False
        return await self._attempt(uow, row.id, event, attempts=attempts)

    async def _attempt(self, uow: UnitOfWork, event_id: UUID, event: ClerkEvent, *, attempts: int) -> bool:
        """Step: apply the event and mark it as applied, or store its error and when it is tried again. Returns whether
        it is applied.

        An event about an erased user counts as applied, and its payload is deleted. An error is raised only if it means
        that Postgres is unavailable.
        """
        try:
            async with uow.savepoint():
                was_news = await self._apply(uow, event)
        except Exception as error:
            if is_unavailable(error):
                raise
            was_news = False
            if not await self._is_erased(uow, event):
                # Whatever is wrong, with the event or with us, the event is kept.
                await self._keep_failed(uow, event_id, event.type, error, attempts=attempts)
                return False
        if not was_news and await self._is_erased(uow, event):
            await webhook_queries.forget_payload(uow.connection, event_id)
        await webhook_queries.mark_applied(uow.connection, event_id)
        log.info("webhook.applied", event_type=event.type, event_id=str(event_id))
        return True

    @staticmethod
    async def _keep_failed(
        uow: UnitOfWork, event_id: UUID, event_type: str, error: Exception, *, attempts: int
    ) -> None:
        retry_in = BACKOFF[attempts - 1] if attempts <= len(BACKOFF) else None
        reason = summarize_error(error)
        await webhook_queries.mark_failed(uow.connection, event_id, error=reason, retry_in=retry_in)
        log.error("webhook.failed", event_type=event_type, event_id=str(event_id), attempts=attempts, reason=reason)

    async def _is_erased(self, uow: UnitOfWork, event: ClerkEvent) -> bool:
        subject = subject_of(event.type, event.data)
        return subject is not None and await self.upstream.is_erased(uow, self.issuer, subject)

    async def _apply(self, uow: UnitOfWork, event: ClerkEvent) -> bool:
        """Step: carry out the effect of one event: create, update or delete a user, or record a sign-in. Events of
        other types have no effect. Returns False if nothing changed. Raises UnreadableEventError."""
        if event.type in _USER_EVENTS:
            user = read_user(event.data, issuer=self.issuer, told_at=event.timestamp)
            return await self.upstream.apply(uow, user)
        if event.type == "user.deleted" and (subject := subject_of(event.type, event.data)):
            return await self.upstream.delete(uow, issuer=self.issuer, subject=subject, told_at=event.timestamp)
        if event.type == "session.created":
            session = read_session(event.data)
            if session.actor is not None:
                # The session is an impersonation, and no sign-in of the user.
                return False
            return await self.upstream.record_sign_in(
                uow,
                issuer=self.issuer,
                subject=session.user_id,
                session_id=session.id,
                started_at=session.created_at,
            )
        return False
