"""Subscriptions to outgoing webhooks, and their deliveries."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    computed_field,
    field_validator,
)
from pydantic_core import PydanticCustomError

from services.user_management.core.pagination import Page
from services.user_management.enums import DeliveryState, EventType, SubscriptionStatus
from services.user_management.utils.scalars import Moment, WholeNumber
from services.user_management.utils.validators import HttpUrl, PlainLine

DEFAULT_OVERLAP_SECONDS: Final = 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
MAX_REPLAYED_IDS: Final = 1000
MESSAGE_PREFIX: Final = "msg_"

EVENT_NAMES: Final = (*(event.value for event in EventType), "user.*", "integration.*")
"""The names that a subscription's list of event types may hold."""


def _known_event(name: str) -> str:
    if name not in EVENT_NAMES:
        raise PydanticCustomError("event_type", "must be a type of event, user.* or integration.*")
    return name


EventName = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_known_event),
    WithJsonSchema({"type": "string", "enum": list(EVENT_NAMES)}),
]
EventNames = Annotated[list[EventName], Field(max_length=64)]


class CreateSubscriptionRequest(BaseModel):
    """A new subscription: where to send which events."""

    model_config = ConfigDict(extra="forbid")

    url: HttpUrl
    """In production https, without user and fragment, on port 443 or above 1023, at a public address."""
    event_types: EventNames = []
    """Event types, or `user.*` or `integration.*`; an empty list means all."""
    description: Annotated[str, PlainLine(200)] | None = None


class SubscriptionUpdate(BaseModel):
    """A merge patch (RFC 7396). Members that are left out stay; null for `event_types` means all types."""

    model_config = ConfigDict(extra="forbid")

    url: HttpUrl | None = None
    event_types: EventNames | None = None
    description: Annotated[str, PlainLine(200)] | None = None
    status: SubscriptionStatus | None = None
    """`disabled`: nothing is sent and nothing new is queued; `active`: what is pending is sent from now on."""

    @field_validator("url", "status", mode="before")
    @classmethod
    def _stays(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError("not_removable", "cannot be removed")
        return value


class RotateSecretRequest(BaseModel):
    """How long the former secret goes on signing beside the new one."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: WholeNumber = Field(default=DEFAULT_OVERLAP_SECONDS, ge=0, le=MAX_OVERLAP_SECONDS)
    """How many seconds the former secret goes on signing; 0 ends it at once."""


class ReplayRequest(BaseModel):
    """Which deliveries to send again, whatever became of them; `{}` means those that failed."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = None
    """Send deliveries again that were queued at this time or later."""
    until: Moment | None = None
    """Send deliveries again that were queued before this time."""
    event_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_REPLAYED_IDS)] | None = None


class SubscriptionResponse(BaseModel):
    """A subscription; never its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    owner: str
    """The service (by name) or the user (by id) that made the subscription; what it may be told depends on them."""
    owner_may_hear: bool
    """False: nothing is sent or queued, because the owner is disabled, has no live key, lacks the permission, or is no
    longer an administrator."""
    created_by: str
    url: str
    description: str | None
    event_types: list[str]
    status: SubscriptionStatus
    disabled_reason: str | None
    failing_since: datetime | None
    """When the first of the present failures in a row happened; after five days of failures the subscription is
    disabled."""
    last_sequence: int
    """`deliverysequence` of the newest event queued."""
    former_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int = Field(exclude=True)

    @property
    def etag(self) -> str:
        """Return the entity tag (RFC 9110 section 8.8.3): the version, which `If-Match` is compared with, and what
        changes without a new version."""
        failing = 0 if self.failing_since is None else int(self.failing_since.timestamp() * 1000)
        return f'"{self.version}-{self.last_sequence:x}-{failing:x}-{self.owner_may_hear:d}"'


class NewSubscription(SubscriptionResponse):
    """A new subscription with its secret, which is shown once and never again."""

    secret: str = Field(repr=False)


class NewSecret(BaseModel):
    """A signing secret, shown once and never again."""

    secret: str = Field(repr=False)
    former_secret_until: datetime | None
    """Until when events are signed with the former secret too."""


class DeliveryResponse(BaseModel):
    """One event for one subscription."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    event_id: UUID
    event_type: str
    sequence: int
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    """When the next attempt is due. Null: the delivery is finished, or waits for the subscription to be enabled."""
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented order of decorators
    @property
    def webhook_id(self) -> str:
        """The value of the header `webhook-id`, which is the same at each attempt."""
        return f"{MESSAGE_PREFIX}{self.event_id}"


class QueuedDelivery(BaseModel):
    """A delivery that was just queued."""

    delivery_id: UUID
    webhook_id: str


class Replayed(BaseModel):
    """How many deliveries are sent again."""

    queued: int
    has_more: bool
    """Whether there are more. Then ask again, with `next_since` as `since`; if that is null, send the same request for
    failed deliveries (`{}`), of which fewer are left by now."""
    next_since: datetime | None
    """Always null after a request for failed deliveries: by time, delivered ones would be sent again too."""


SubscriptionPage = Page[SubscriptionResponse]
DeliveryPage = Page[DeliveryResponse]
