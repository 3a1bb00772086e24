"""Events as CloudEvents 1.0: builds them, from outbox rows or from single values, and writes them as one JSON document
or as the fields of a Redis Stream's entry."""

import json
from datetime import UTC, datetime
from typing import Final, TypeAlias
from uuid import UUID

from services.user_management.core.json_types import JSONObject
from services.user_management.queries.outbox import WaitingEvent

SPEC_VERSION: Final = "1.0"
STRUCTURED: Final = "application/cloudevents+json"
"""Media type of an event as one JSON document (CloudEvents JSON event format, section 3)."""
_SEQUENCE_DIGITS: Final = 20
"""Enough for every bigint, so that the texts sort in the order of the numbers."""

CloudEvent: TypeAlias = JSONObject


def ordered(number: int) -> str:
    """Return a number as text of 20 digits, which sorts in numeric order, as the CloudEvents extension `sequence`
    requires."""
    return f"{number:0{_SEQUENCE_DIGITS}d}"


def cloud_event(
    *,
    event_id: UUID,
    event_type: str,
    source: str,
    subject: str,
    moment: datetime,
    data: JSONObject,
    sequence: int | None = None,
) -> CloudEvent:
    """Build an event: a JSON object of its attributes and `data`; `sequence` is left out if it is None.

    No two events may have the same `source` and `event_id` (CloudEvents 1.0 section 3.1).
    """
    attributes = {
        "specversion": SPEC_VERSION,
        "id": str(event_id),
        "source": source,
        "type": event_type,
        "subject": subject,
        "time": moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
    }
    extensions = {} if sequence is None else {"sequence": ordered(sequence)}
    return {**attributes, **extensions, "data": dict(data)}


def of_outbox(event: WaitingEvent, source: str) -> CloudEvent:
    """Turn an event of the outbox into a CloudEvent that comes from `source` and has its outbox number as
    `sequence`."""
    return cloud_event(
        event_id=event.id,
        event_type=event.event_type,
        source=source,
        subject=event.subject,
        moment=event.occurred_at,
        data=event.payload,
        sequence=event.seq,
    )


def structured(event: CloudEvent, **extensions: str) -> str:
    """Write an event as one JSON document (structured content mode), with `extensions` as further attributes."""
    return json.dumps({**event, **extensions}, separators=(",", ":"), ensure_ascii=False)


def attribute_fields(event: CloudEvent) -> dict[str, str]:
    """Return the fields of an event's entry in a Redis Stream: one per attribute, and `data` as JSON text (as in the
    binary content mode of CloudEvents)."""
    return {
        name: json.dumps(value, separators=(",", ":"), ensure_ascii=False) if name == "data" else value
        for name, value in event.items()
    }
