"""Events of every type, for tests of how they are sent."""

from typing import Any

from services.user_management.enums import EventType
from services.user_management.routers.examples import EXAMPLES
from services.user_management.schemas.events import OUTBOX_EVENTS, UserEvent


def happened(event_type: EventType, **members: Any) -> UserEvent:
    """Return the published example of an event of this type, about `user_1`, with `members` in place of its own."""
    event = OUTBOX_EVENTS[event_type]
    return event.model_validate(EXAMPLES[f"{event.__name__}Event"]["data"] | {"user_id": "user_1"} | members)
