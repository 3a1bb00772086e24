"""Connections of the signed-in user, and the OAuth callback."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import RedirectResponse

from services.user_management.auth.clerk import CurrentUser, InPerson, OwnUserId
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.guards import anonymous
from services.user_management.core.pagination import DEFAULT_LIMIT, Limit
from services.user_management.routers.json_route import JSONRoute
from services.user_management.schemas.integration import (
    AuthorizeRequest,
    AuthorizeResponse,
    ConfirmRequest,
    IntegrationList,
    IntegrationResponse,
    ProviderList,
)
from services.user_management.schemas.token import TokenReadPage
from services.user_management.services.integration_service import ProviderReturn

ProviderPath = Annotated[str, Path(max_length=32)]
CallbackValue = Annotated[str | None, Query(max_length=2048)]

router = APIRouter(tags=["integrations"], route_class=JSONRoute)


@router.get("/providers")
async def list_providers(_user: CurrentUser, container: ContainerDependency) -> ProviderList:
    """What can be connected, and what each scope is for."""
    return container.integrations.list_providers()


@router.get("/users/{user_id}/integrations")
async def list_integrations(user_id: OwnUserId, container: ContainerDependency) -> IntegrationList:
    """The user's connections."""
    return await container.integrations.list_integrations(user_id)


@router.get("/users/{user_id}/integrations/{provider}")
async def get_integration(
    user_id: OwnUserId, provider: ProviderPath, container: ContainerDependency
) -> IntegrationResponse:
    """The user's primary connection to a provider."""
    return await container.integrations.get_integration(user_id, provider)


@router.get("/users/{user_id}/integrations/{provider}/activity")
async def list_integration_activity(
    user_id: OwnUserId,
    provider: ProviderPath,
    container: ContainerDependency,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> TokenReadPage:
    """Which service read the user's tokens, when and why."""
    return await container.integrations.list_activity(user_id, provider, limit=limit, cursor=cursor)


@router.post("/users/{user_id}/integrations/{provider}/authorize", status_code=201, dependencies=[InPerson])
async def authorize_integration(
    user_id: OwnUserId, provider: ProviderPath, body: AuthorizeRequest, container: ContainerDependency
) -> AuthorizeResponse:
    """Start a connection: send the browser to `authorization_url`."""
    return await container.integrations.start_connection(user_id, provider, body)


@router.post("/users/{user_id}/integrations/{provider}", status_code=201, dependencies=[InPerson])
async def confirm_integration(
    user_id: OwnUserId, provider: ProviderPath, body: ConfirmRequest, container: ContainerDependency
) -> IntegrationResponse:
    """Finish a connection that this user started; the code is exchanged only here."""
    return await container.integrations.confirm_connection(user_id, provider, body)


@router.get(
    "/oauth/callback/{provider}", dependencies=[Depends(anonymous)], status_code=303, response_class=RedirectResponse
)
async def receive_oauth_callback(
    provider: ProviderPath,
    container: ContainerDependency,
    state: Annotated[str, Query(max_length=256)],
    code: CallbackValue = None,
    error: CallbackValue = None,
    iss: CallbackValue = None,
) -> RedirectResponse:
    """Where the provider sends the browser back to. Keeps the code, exchanges nothing, and returns to the product."""
    returned = ProviderReturn(state=state, code=code, error=error, issuer=iss)
    return RedirectResponse(await container.integrations.record_provider_return(provider, returned), status_code=303)
