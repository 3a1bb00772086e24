"""Events from upstream: stored and applied in one transaction, each message once."""

from typing import Final

import structlog
from pydantic import ValidationError

from services.user_management.core.context import act_as
from services.user_management.core.ids import uuid7
from services.user_management.core.principal import system
from services.user_management.exceptions import ValidationFailedError
from services.user_management.queries import webhook as webhook_queries
from services.user_management.schemas.webhook import ClerkEvent, ClerkUser, WebhookAccepted
from services.user_management.services.user_service import UpstreamUser, UserService
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

SOURCE: Final = "clerk"

log = structlog.get_logger(__name__)


class WebhookService:
    """The inbox of Clerk's webhooks."""

    def __init__(
        self, *, unit_of_work: UnitOfWorkFactory, users: UserService, issuer: str, instance_id: str | None
    ) -> None:
        self._unit_of_work = unit_of_work
        self._users = users
        self._issuer = issuer
        self._instance_id = instance_id

    async def receive_clerk_event(
        self, message_id: str, event: ClerkEvent, payload: dict[str, object]
    ) -> WebhookAccepted:
        """Store a verified event and apply it. Unknown types are stored: refusing them would only have them resent.

        Raises ValidationFailedError for an event of another Clerk instance, or one whose data cannot be read.
        """
        if self._instance_id is not None and event.instance_id != self._instance_id:
            raise ValidationFailedError("The event is of another Clerk instance.")
        act_as(system(SOURCE))
        user = self._parse_user(event)

        async with self._unit_of_work() as uow:
            event_id = uuid7()
            now = uow.clock.now()
            values = {
                "id": event_id,
                "source": SOURCE,
                "message_id": message_id,
                "event_type": event.type,
                "payload": payload,
                "received_at": now,
                "attempts": 1,
            }
            if not await webhook_queries.insert_event(uow.connection, values):
                return WebhookAccepted(duplicate=True)
            await self._apply(uow, event, user)
            await webhook_queries.mark_applied(uow.connection, event_id)
        log.info("webhook.applied", event_type=event.type, message_id=message_id)
        return WebhookAccepted(duplicate=False)

    def _parse_user(self, event: ClerkEvent) -> UpstreamUser | None:
        if event.type not in {"user.created", "user.updated"}:
            return None
        try:
            user = ClerkUser.model_validate(event.data)
        except ValidationError as error:
            fields = [".".join(map(str, item["loc"])) for item in error.errors()]
            raise ValidationFailedError(f"The event's user cannot be read: {', '.join(fields)}.") from None
        email = user.primary_email
        return UpstreamUser(
            issuer=self._issuer,
            subject=user.id,
            email=email.email_address if email else None,
            email_verified=bool(email and email.verification and email.verification.status == "verified"),
            first_name=user.first_name,
            last_name=user.last_name,
            profile_image_url=user.image_url,
            phone=user.primary_phone,
            suspended=user.banned or user.locked,
            updated_at=user.updated_at,
        )

    async def _apply(self, uow: UnitOfWork, event: ClerkEvent, user: UpstreamUser | None) -> None:
        if user is not None:
            await self._users.apply_upstream(uow, user)
        elif event.type == "user.deleted" and isinstance(subject := event.data.get("id"), str):
            await self._users.delete_upstream(uow, issuer=self._issuer, subject=subject)
