"""The events that we send: the data of each type, one model per type, and the CloudEvent in which a webhook delivers
it. Their JSON Schemas are published."""

from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model

from services.user_management.enums import EventType, ReauthReason

Sequence = Annotated[str, Field(pattern=r"^[0-9]{20}$")]
"""A number as text of 20 digits, so that the texts sort in the order of the numbers."""
DisconnectedBy = Literal["user", "user_deleted"]


class EventData(BaseModel):
    """The `data` of an event: ids, names and codes, but no personal values and no tokens."""

    # Members with a default value are always sent too, and the schema says so.
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)

    event_type: ClassVar[str]


class UserEvent(EventData):
    """The data of an event about a user, whose id is the event's `subject`."""

    event_type: ClassVar[EventType]
    user_id: str


class UserCreated(UserEvent):
    event_type = EventType.USER_CREATED


class UserUpdated(UserEvent):
    event_type = EventType.USER_UPDATED
    changed: Annotated[list[str], Field(min_length=1)]
    """The names of the user's fields that changed, of those that the API shows."""


class UserSuspended(UserEvent):
    event_type = EventType.USER_SUSPENDED


class UserDeactivated(UserEvent):
    event_type = EventType.USER_DEACTIVATED


class UserDeleted(UserEvent):
    event_type = EventType.USER_DELETED


class UserRestored(UserEvent):
    event_type = EventType.USER_RESTORED


class UserErased(UserEvent):
    event_type = EventType.USER_ERASED


class IntegrationEvent(UserEvent):
    """The data of an event about a user's integration."""

    integration_id: UUID
    provider: str


class StatusChanged(IntegrationEvent):
    """The data of an event about a change of an integration's status. `reason` says why the integration does not work,
    or not fully; null means that it works."""

    reason: str | None


class IntegrationConnected(StatusChanged):
    event_type = EventType.INTEGRATION_CONNECTED
    reason: None = None


class IntegrationRecovered(StatusChanged):
    event_type = EventType.INTEGRATION_RECOVERED
    reason: None = None


class IntegrationDegraded(StatusChanged):
    event_type = EventType.INTEGRATION_DEGRADED
    reason: str
    """A code of this service, or the provider's error code."""


class IntegrationNeedsReauth(StatusChanged):
    event_type = EventType.INTEGRATION_NEEDS_REAUTH
    reason: ReauthReason


class IntegrationRevoked(StatusChanged):
    event_type = EventType.INTEGRATION_REVOKED
    reason: Literal[ReauthReason.REVOKED_AT_PROVIDER]


class IntegrationDisconnected(IntegrationEvent):
    event_type = EventType.INTEGRATION_DISCONNECTED
    by: DisconnectedBy


class WebhookTest(EventData):
    """The data of a test event, which is sent only on request and to one subscription, whatever event types that
    subscription has chosen."""

    event_type = "webhook.test"
    subscription_id: UUID


OUTBOX_EVENTS: Final[dict[EventType, type[UserEvent]]] = {
    event.event_type: event
    for event in (
        UserCreated,
        UserUpdated,
        UserSuspended,
        UserDeactivated,
        UserDeleted,
        UserRestored,
        UserErased,
        IntegrationConnected,
        IntegrationRecovered,
        IntegrationDegraded,
        IntegrationNeedsReauth,
        IntegrationRevoked,
        IntegrationDisconnected,
    )
}
WEBHOOK_EVENTS: Final[tuple[type[EventData], ...]] = (*OUTBOX_EVENTS.values(), WebhookTest)


class SentEvent(BaseModel):
    """An event in the form in which a webhook delivers it, without its `data`: a CloudEvent 1.0 in JSON, which may have
    further attributes."""

    specversion: Literal["1.0"]
    id: UUID
    source: str
    type: str
    subject: str
    time: AwareDatetime
    datacontenttype: Literal["application/json"]
    deliverysequence: Sequence


class OrderedEvent(SentEvent):
    """A sent event that came from the outbox. Of two such events, the one with the lower `sequence` came first."""

    sequence: Sequence


def sent_event(data: type[EventData]) -> type[SentEvent]:
    """Return the model of a sent event whose `data` is of this model; it is named after this model, with `Event`
    appended."""
    is_ordered = issubclass(data, UserEvent)
    return create_model(
        f"{data.__name__}Event",
        __base__=OrderedEvent if is_ordered else SentEvent,
        type=(Annotated[str, Field(json_schema_extra={"const": str(data.event_type)})], ...),
        data=(data, ...),
    )
