"""Routes by which administrators register, disable and enable sibling services, and manage their keys, grants and
permissions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from services.user_management.auth.admin import CurrentAdmin, get_current_admin
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.exceptions import ConflictError, NotFoundError, UnknownProviderError, raises
from services.user_management.routers.integration_parameters import ProviderPath
from services.user_management.routers.json_route import JSONRoute
from services.user_management.schemas.service import (
    KEY_ID_PATTERN,
    CreateServiceRequest,
    GrantRequest,
    NewServiceKey,
    PermissionsRequest,
    RevokedKeys,
    RotateKeyRequest,
    ServiceList,
    ServiceName,
    ServiceResponse,
)

NamePath = Annotated[ServiceName, Path(description="Name of the service")]
KeyIdPath = Annotated[str, Path(pattern=KEY_ID_PATTERN, description="The middle part of the key")]

router = APIRouter(
    prefix="/admin/services",
    tags=["admin"],
    route_class=JSONRoute,
    dependencies=[Depends(get_current_admin)],
)


@router.post("", status_code=201)
@raises(ConflictError)
async def create_service(
    actor: CurrentAdmin, body: CreateServiceRequest, container: ContainerDependency
) -> NewServiceKey:
    """Register a service. The answer holds its first key, which cannot be read again later."""
    key = await container.service_clients.create_service(actor, body.name, body.permissions)
    return NewServiceKey(name=body.name, key=key)


@router.get("")
async def list_services(actor: CurrentAdmin, container: ContainerDependency) -> ServiceList:
    """List all services with their keys (never a secret), grants and permissions."""
    return ServiceList(items=await container.service_clients.list_services(actor))


@router.get("/{name}")
@raises(NotFoundError)
async def get_service(actor: CurrentAdmin, name: NamePath, container: ContainerDependency) -> ServiceResponse:
    """Return one service with its keys (never a secret), grants and permissions."""
    return await container.service_clients.get_service(actor, name)


@router.put("/{name}/permissions")
@raises(NotFoundError)
async def set_service_permissions(
    actor: CurrentAdmin, name: NamePath, body: PermissionsRequest, container: ContainerDependency
) -> ServiceResponse:
    """Replace what the service may do beyond reading tokens."""
    return await container.service_clients.set_permissions(actor, name, body.permissions)


@router.put("/{name}/grants/{provider}")
@raises(NotFoundError, UnknownProviderError)
async def grant_provider(
    actor: CurrentAdmin, name: NamePath, provider: ProviderPath, body: GrantRequest, container: ContainerDependency
) -> ServiceResponse:
    """Let the service read tokens of a provider. This replaces an earlier grant for the same provider."""
    return await container.service_clients.grant(
        actor, name, provider, scopes=body.scopes, reason_required=body.reason_required
    )


@router.delete("/{name}/grants/{provider}", status_code=204)
@raises(NotFoundError)
async def withdraw_grant(
    actor: CurrentAdmin, name: NamePath, provider: ProviderPath, container: ContainerDependency
) -> None:
    """Withdraw the service's grant for a provider: the service can read no more tokens of that provider."""
    await container.service_clients.withdraw_grant(actor, name, provider)


@router.post("/{name}/keys", status_code=201)
@raises(NotFoundError)
async def rotate_service_key(
    actor: CurrentAdmin, name: NamePath, body: RotateKeyRequest, container: ContainerDependency
) -> NewServiceKey:
    """Issue a new key. The answer holds it, and it cannot be read again later. The service's other keys expire after
    `overlap_seconds`, unless they expire before."""
    key = await container.service_clients.rotate_key(actor, name, overlap_seconds=body.overlap_seconds)
    return NewServiceKey(name=name, key=key)


@router.delete("/{name}/keys/{key_id}", status_code=204)
@raises(NotFoundError)
async def revoke_service_key(
    actor: CurrentAdmin, name: NamePath, key_id: KeyIdPath, container: ContainerDependency
) -> None:
    """Revoke one key: it is refused from now on, and this cannot be undone."""
    await container.service_clients.revoke_key(actor, name, key_id)


@router.post("/{name}/disable")
@raises(NotFoundError)
async def disable_service(actor: CurrentAdmin, name: NamePath, container: ContainerDependency) -> ServiceResponse:
    """Refuse every key of the service, and send it no events, until it is enabled again."""
    return await container.service_clients.disable_service(actor, name)


@router.post("/{name}/enable")
@raises(NotFoundError)
async def enable_service(actor: CurrentAdmin, name: NamePath, container: ContainerDependency) -> ServiceResponse:
    """Accept the keys of a disabled service again, and send it the events that were queued for it before. Events that
    happened while it was disabled are not sent."""
    return await container.service_clients.enable_service(actor, name)


@router.post("/{name}/revoke")
@raises(NotFoundError)
async def revoke_service(actor: CurrentAdmin, name: NamePath, container: ContainerDependency) -> RevokedKeys:
    """Revoke every key of the service: all are refused from now on, and this cannot be undone. The service stays, and
    can be given a new key."""
    return RevokedKeys(revoked=await container.service_clients.revoke_service(actor, name))
