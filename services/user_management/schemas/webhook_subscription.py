"""Subscriptions to outgoing webhooks, their deliveries, and the requests about both."""

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
    """In production this must be https, without user or fragment, on port 443 or one above 1023, at a public
    address."""
    event_types: EventNames = []
    """Event types, or `user.*` or `integration.*`; an empty list means all."""
    description: Annotated[str, PlainLine(200)] | None = None


class SubscriptionUpdate(BaseModel):
    """A merge patch (RFC 7396) of a subscription. Members that are left out stay; null for `event_types` means all
    types."""

    model_config = ConfigDict(extra="forbid")

    url: HttpUrl | None = None
    event_types: EventNames | None = None
    description: Annotated[str, PlainLine(200)] | None = None
    status: SubscriptionStatus | None = None
    """`disabled`: nothing is sent and nothing new is queued; `active`: pending deliveries are sent from now on."""

    @field_validator("url", "status", mode="before")
    @classmethod
    def _stays(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError("not_removable", "cannot be removed")
        return value


class RotateSecretRequest(BaseModel):
    """A request for a new signing secret."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: WholeNumber = Field(default=DEFAULT_OVERLAP_SECONDS, ge=0, le=MAX_OVERLAP_SECONDS)
    """For how many seconds deliveries are also signed with the former secret; 0 ends that at once."""


class ReplayRequest(BaseModel):
    """Which deliveries to send again: those that match all the given criteria, delivered ones too; `{}` means those
    that failed."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = None
    """Send deliveries again that were queued at this time or later."""
    until: Moment | None = None
    """Send deliveries again that were queued before this time."""
    event_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_REPLAYED_IDS)] | None = None


class SubscriptionResponse(BaseModel):
    """A subscription, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    owner: str
    """The service (by name) or the user (by id) that the subscription belongs to; which events it may receive depends
    on the owner's rights."""
    owner_may_hear: bool
    """Whether the owner may receive events. False: nothing is sent or queued, because the service is disabled, has no
    live key or lacks the permission, or the user is not active or no longer an administrator."""
    created_by: str
    url: str
    description: str | None
    event_types: list[str]
    status: SubscriptionStatus
    disabled_reason: str | None
    failing_since: datetime | None
    """When the present series of failures began; null if there is none. After five days without a success the
    subscription is disabled."""
    last_sequence: int
    """The `deliverysequence` of the newest event that was queued."""
    former_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int = Field(exclude=True)

    @property
    def etag(self) -> str:
        """Return the entity tag (RFC 9110 section 8.8.3). It is made of the version, which `If-Match` is compared with,
        and of what changes without a new version."""
        failing = 0 if self.failing_since is None else int(self.failing_since.timestamp() * 1000)
        return f'"{self.version}-{self.last_sequence:x}-{failing:x}-{self.owner_may_hear:d}"'


class NewSubscription(SubscriptionResponse):
    """A new subscription with its secret, which is shown once and never again."""

    secret: str = Field(repr=False)


class NewSecret(BaseModel):
    """A signing secret, shown once and never again."""

    secret: str = Field(repr=False)
    former_secret_until: datetime | None
    """Until when events are signed with the former secret too; null: they are not."""


class DeliveryResponse(BaseModel):
    """The delivery of one event to one subscription."""

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
    """A test delivery that was queued, just now or by an earlier request."""

    delivery_id: UUID
    webhook_id: str


class Replayed(BaseModel):
    """How many deliveries will be sent again."""

    queued: int
    has_more: bool
    """Whether more deliveries may match. If so, repeat the request with `next_since` as `since`; if `next_since` is
    null, repeat the request for failed deliveries (`{}`) as it is, since those just queued no longer match it."""
    next_since: datetime | None
    """When the newest of the queued deliveries was first queued, if `has_more`. Always null after a request for failed
    deliveries: with a time, delivered ones would be sent again too."""


SubscriptionPage = Page[SubscriptionResponse]
DeliveryPage = Page[DeliveryResponse]
