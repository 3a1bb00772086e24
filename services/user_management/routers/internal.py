"""For sibling services."""

from fastapi import APIRouter, Depends, Request

from services.user_management.auth.dependencies import ContainerDependency, get_container
from services.user_management.auth.service_auth import permitted, service_credential
from services.user_management.auth.token_caller import token_caller
from services.user_management.enums import ServicePermission
from services.user_management.routers.json_route import DirectRoute, JSONRoute
from services.user_management.schemas.token import TokenRequest, TokenResponse
from services.user_management.schemas.user import UserBatch, UserBatchRequest

hot_router = APIRouter(
    prefix="/internal/tokens", tags=["internal"], route_class=DirectRoute, dependencies=[Depends(token_caller)]
)
router = APIRouter(prefix="/internal/users", tags=["internal"], route_class=JSONRoute)


@hot_router.post("/get")
async def get_token(request: Request, body: TokenRequest) -> TokenResponse:
    """A usable access token of one user for one provider, or one typed refusal."""
    return await get_container(request).tokens.get_valid_token(service_credential(request), body)


@router.post("/batch-get", dependencies=[Depends(permitted(ServicePermission.USERS_READ))])
async def batch_get_users(body: UserBatchRequest, container: ContainerDependency) -> UserBatch:
    """Profiles of up to 100 users."""
    return await container.administration.batch_get(body.user_ids)
