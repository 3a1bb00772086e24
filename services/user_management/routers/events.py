"""Descriptions of the webhooks that this service sends, for the OpenAPI document."""

from typing import Any, Final

from pydantic.json_schema import models_json_schema

from services.user_management.schemas.events import WEBHOOK_EVENTS, EventData, sent_event
from services.user_management.services.cloud_events import STRUCTURED

_SCHEMA: Final = "#/components/schemas/{model}"
_HEADERS: Final = {
    "webhook-id": "Id of the message, which is the same at each attempt",
    "webhook-timestamp": "Time of this attempt, in seconds since 1970",
    "webhook-signature": "By Standard Webhooks: `v1,` and the signature; several in a rotation, separated by spaces",
}


def with_events(document: dict[str, Any]) -> dict[str, Any]:
    """Add each type of event to the document's webhooks, and return the document."""
    sent = {data: sent_event(data) for data in WEBHOOK_EVENTS}
    _, schemas = models_json_schema([(model, "serialization") for model in sent.values()], ref_template=_SCHEMA)
    document["components"]["schemas"] |= schemas["$defs"]
    document["webhooks"] = {
        str(data.event_type): {"post": _operation(data, model.__name__)} for data, model in sent.items()
    }
    return document


def _operation(data: type[EventData], model: str) -> dict[str, Any]:
    return {
        "tags": ["webhooks"],
        "summary": f"`{data.event_type}`",
        "operationId": f"receive_{data.event_type.replace('.', '_')}",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {STRUCTURED: {"schema": {"$ref": _SCHEMA.format(model=model)}}},
        },
        "responses": {
            "2XX": {"description": "Delivered"},
            "410": {"description": "The subscription is disabled"},
            "default": {"description": "The event is sent again"},
        },
    }
