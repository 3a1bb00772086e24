"""Events from upstream."""

from fastapi import APIRouter

from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.webhook_auth import ClerkWebhook
from services.user_management.routers.strict_route import StrictRoute
from services.user_management.schemas.webhook import WebhookAccepted

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=StrictRoute)


@router.post("/clerk")
async def receive_clerk_webhook(webhook: ClerkWebhook, container: ContainerDependency) -> WebhookAccepted:
    """Clerk's events, signed as Standard Webhooks. 2xx means stored; `applied` says whether the effect is there
    already, or will be tried again by us."""
    return await container.clerk.webhooks.receive_clerk_event(webhook.message_id, webhook.event, webhook.payload)
