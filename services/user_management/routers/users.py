"""Profiles."""

from fastapi import APIRouter

from services.user_management.auth.clerk import OwnUserId
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.routers.json_route import JSONRoute
from services.user_management.schemas.user import UserResponse

router = APIRouter(prefix="/users/{user_id}", tags=["users"], route_class=JSONRoute)


@router.get("")
async def get_user(user_id: OwnUserId, container: ContainerDependency) -> UserResponse:
    """The caller's own profile; `me` stands for their id."""
    return await container.users.get_user(user_id)
