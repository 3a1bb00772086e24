"""The route that receives events from the identity provider (Clerk)."""

from typing import Any, Final

from fastapi import APIRouter

from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.webhook_auth import HEADER_FAMILIES, ClerkWebhook
from services.user_management.routers.strict_route import StrictRoute
from services.user_management.schemas.webhook import ClerkEvent, WebhookAccepted

SIGNED_EVENT: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": f"{family}-{part}",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": f"{meaning}. One family of headers must be complete, and the other one absent.",
        }
        for family in HEADER_FAMILIES
        for part, meaning in {
            "id": "Id of the message, the same in each attempt",
            "timestamp": "When this attempt was signed, Unix time in seconds",
            "signature": "`v1,` and the base64 of an HMAC-SHA256; several are separated by spaces",
        }.items()
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ClerkEvent.model_json_schema()}},
    },
}
"""The `openapi_extra` that describes the headers and the body. FastAPI does not see them, because the dependency behind
`ClerkWebhook` reads them itself: the signature is computed over the raw bytes."""

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=StrictRoute)


@router.post("/clerk", openapi_extra=SIGNED_EVENT)
async def receive_clerk_webhook(webhook: ClerkWebhook, container: ContainerDependency) -> WebhookAccepted:
    """Receive one of Clerk's events, signed as Standard Webhooks under headers named `svix-*` or `webhook-*`. A 2xx
    status means that the event is stored. `applied` is true if the event has taken effect, or has none here; otherwise
    this service retries it for a while."""
    return await container.clerk.webhooks.receive_clerk_event(webhook.message_id, webhook.event, webhook.payload)
