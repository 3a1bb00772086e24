"""Outbox events as CloudEvents 1.0: the one form in which anybody is told."""

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
"""All of a bigint, so that texts sort as numbers do."""

CloudEvent: TypeAlias = JSONObject


def ordered(number: int) -> str:
    """A number as the extension `sequence` wants it: text that sorts in order (CloudEvents sequence extension)."""
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
    """The attributes by name, and `data`. `source` with `id` is unique (CloudEvents 1.0 section 3.1)."""
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
    """The CloudEvent of an event in the outbox."""
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
    """One JSON document (structured content mode), with more extension attributes."""
    return json.dumps({**event, **extensions}, separators=(",", ":"), ensure_ascii=False)


def attribute_fields(event: CloudEvent) -> dict[str, str]:
    """A field per attribute, and `data` as JSON text: for a stream entry, as the binary content modes do it."""
    return {
        name: json.dumps(value, separators=(",", ":"), ensure_ascii=False) if name == "data" else value
        for name, value in event.items()
    }
