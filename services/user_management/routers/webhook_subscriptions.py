"""Routes for subscriptions to outgoing webhooks, for administrators and for services that may manage their own."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response

from services.user_management.auth.admin import admin_or_permitted
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.core.pagination import DEFAULT_LIMIT, Limit
from services.user_management.core.principal import Principal
from services.user_management.enums import DeliveryState, ServicePermission
from services.user_management.exceptions import (
    ConflictError,
    KeyUnavailableError,
    NotFoundError,
    PreconditionFailedError,
    raises,
)
from services.user_management.routers.conditional import TAGGED, IfMatch
from services.user_management.routers.json_route import JSONRoute
from services.user_management.schemas.webhook_subscription import (
    CreateSubscriptionRequest,
    DeliveryPage,
    NewSecret,
    NewSubscription,
    QueuedDelivery,
    Replayed,
    ReplayRequest,
    RotateSecretRequest,
    SubscriptionPage,
    SubscriptionResponse,
    SubscriptionUpdate,
)

get_manager = admin_or_permitted(ServicePermission.WEBHOOKS_MANAGE)

Manager = Annotated[Principal, Depends(get_manager)]
SubscriptionId = Annotated[UUID, Path(description="Id of the subscription")]
PageLimit = Annotated[Limit, Query()]
Cursor = Annotated[str | None, Query(max_length=512)]

router = APIRouter(
    prefix="/webhook-subscriptions",
    tags=["webhook subscriptions"],
    route_class=JSONRoute,
    dependencies=[Depends(get_manager)],
)


@router.post("", status_code=201)
@raises(ConflictError, KeyUnavailableError)
async def create_webhook_subscription(
    manager: Manager, body: CreateSubscriptionRequest, container: ContainerDependency
) -> NewSubscription:
    """Make a subscription to events that happen from now on. The answer holds the signing secret, which cannot be read
    again later."""
    return await container.events.subscriptions.create_subscription(manager, body)


@router.get("")
async def list_webhook_subscriptions(
    manager: Manager, container: ContainerDependency, limit: PageLimit = DEFAULT_LIMIT, cursor: Cursor = None
) -> SubscriptionPage:
    """List subscriptions, newest first: all of them for an administrator, only its own for any other service."""
    return await container.events.subscriptions.list_subscriptions(manager, limit=limit, cursor=cursor)


@router.get("/{subscription_id}", responses=TAGGED)
@raises(NotFoundError)
async def get_webhook_subscription(
    manager: Manager, subscription_id: SubscriptionId, container: ContainerDependency, response: Response
) -> SubscriptionResponse:
    """Return one subscription, without its secret."""
    subscription = await container.events.subscriptions.get_subscription(manager, subscription_id)
    response.headers["ETag"] = subscription.etag
    return subscription


@router.patch("/{subscription_id}", responses=TAGGED)
@raises(NotFoundError, PreconditionFailedError)
async def patch_webhook_subscription(
    manager: Manager,
    subscription_id: SubscriptionId,
    body: SubscriptionUpdate,
    expected: IfMatch,
    container: ContainerDependency,
    response: Response,
) -> SubscriptionResponse:
    """Change a subscription by JSON Merge Patch (RFC 7396). Only its owner may change the URL."""
    subscription = await container.events.subscriptions.update_subscription(
        manager, subscription_id, body, expected=expected
    )
    response.headers["ETag"] = subscription.etag
    return subscription


@router.delete("/{subscription_id}", status_code=204)
@raises(NotFoundError, PreconditionFailedError)
async def delete_webhook_subscription(
    manager: Manager, subscription_id: SubscriptionId, expected: IfMatch, container: ContainerDependency
) -> None:
    """Remove a subscription with all its deliveries."""
    await container.events.subscriptions.delete_subscription(manager, subscription_id, expected=expected)


@router.post("/{subscription_id}/rotate-secret", status_code=201)
@raises(NotFoundError, KeyUnavailableError)
async def rotate_webhook_secret(
    manager: Manager, subscription_id: SubscriptionId, body: RotateSecretRequest, container: ContainerDependency
) -> NewSecret:
    """Issue a new signing secret; only the subscription's owner may. The answer holds the secret, which cannot be read
    again later. For `overlap_seconds`, deliveries are signed with the former secret too."""
    return await container.events.subscriptions.rotate_secret(
        manager, subscription_id, overlap_seconds=body.overlap_seconds
    )


@router.post("/{subscription_id}/test", status_code=202)
@raises(NotFoundError, ConflictError)
async def send_test_webhook(
    manager: Manager, subscription_id: SubscriptionId, container: ContainerDependency
) -> QueuedDelivery:
    """Queue an event of the type `webhook.test`, which is sent as any other event is. While an earlier test event is
    pending, no second one is queued: the pending one becomes due at once, and the answer names it."""
    return await container.events.subscriptions.send_test(manager, subscription_id)


@router.get("/{subscription_id}/deliveries")
@raises(NotFoundError)
async def list_webhook_deliveries(
    manager: Manager,
    subscription_id: SubscriptionId,
    container: ContainerDependency,
    state: Annotated[DeliveryState | None, Query()] = None,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> DeliveryPage:
    """List the deliveries of a subscription, newest first. With `state`, list only those in that state."""
    return await container.events.subscriptions.list_deliveries(
        manager, subscription_id, state=state, limit=limit, cursor=cursor
    )


@router.post("/{subscription_id}/replay", status_code=202)
@raises(NotFoundError, ConflictError)
async def replay_webhooks(
    manager: Manager, subscription_id: SubscriptionId, body: ReplayRequest, container: ContainerDependency
) -> Replayed:
    """Queue deliveries to be sent again under their old ids, oldest first and at most 10,000 per request: those that
    match all criteria of the body, including delivered ones; without criteria, only those that failed."""
    return await container.events.subscriptions.replay(manager, subscription_id, body)
