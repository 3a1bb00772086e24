"""Routes by which administrators find, suspend, delete and restore users."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from services.user_management.auth.admin import CurrentAdmin, get_current_admin
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.core.pagination import DEFAULT_LIMIT, Limit
from services.user_management.exceptions import ConflictError, UserNotFoundError, raises
from services.user_management.queries.user_search import UserFilter
from services.user_management.routers.json_route import JSONRoute, OwnPathRoute
from services.user_management.routers.user_filter import Cursor, UserFilterQuery
from services.user_management.schemas.user import (
    USER_ID_PATTERN,
    AdminUserDetail,
    AdminUserPage,
    AdminUserResponse,
    DeletionResponse,
    SuspendRequest,
)

router = APIRouter(
    prefix="/admin/users", tags=["admin"], route_class=JSONRoute, dependencies=[Depends(get_current_admin)]
)
deleted_router = APIRouter(
    prefix="/admin/users", tags=["admin"], route_class=OwnPathRoute, dependencies=[Depends(get_current_admin)]
)

UserId = Annotated[str, Path(pattern=USER_ID_PATTERN)]
PageLimit = Annotated[Limit, Query()]


@deleted_router.get("/deleted")
async def list_deleted_users(
    actor: CurrentAdmin, container: ContainerDependency, limit: PageLimit = DEFAULT_LIMIT, cursor: Cursor = None
) -> AdminUserPage:
    """List deleted users whose data is not erased yet, the most recently deleted first."""
    return await container.users.administration.list_users(actor, UserFilter(deleted=True), limit=limit, cursor=cursor)


@router.get("")
async def list_users(
    actor: CurrentAdmin,
    container: ContainerDependency,
    wanted: UserFilterQuery,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> AdminUserPage:
    """List users who are not deleted and match the filters: with `q`, those whose e-mail, first name or last name
    begins with it, in alphabetical order; without `q`, the newest first."""
    return await container.users.administration.list_users(actor, wanted, limit=limit, cursor=cursor)


@router.get("/{user_id}")
@raises(UserNotFoundError)
async def get_user_detail(actor: CurrentAdmin, user_id: UserId, container: ContainerDependency) -> AdminUserDetail:
    """Return one user, deleted or not, with the number of their sign-ins in the last 30 days."""
    return await container.users.administration.get_user(actor, user_id)


@router.post("/{user_id}/suspend")
@raises(UserNotFoundError)
async def suspend_user(
    actor: CurrentAdmin, user_id: UserId, body: SuspendRequest, container: ContainerDependency
) -> AdminUserResponse:
    """Suspend a user: no session of theirs is accepted and no service can read their tokens until the suspension is
    lifted. Suspending a user twice changes nothing."""
    return await container.users.administration.suspend_user(actor, user_id, reason=body.reason)


@router.post("/{user_id}/unsuspend")
@raises(UserNotFoundError, ConflictError)
async def unsuspend_user(actor: CurrentAdmin, user_id: UserId, container: ContainerDependency) -> AdminUserResponse:
    """Lift this service's suspension of a user. A ban by the identity provider can only be lifted there."""
    return await container.users.administration.unsuspend_user(actor, user_id)


@router.post("/{user_id}/restore")
@raises(UserNotFoundError, ConflictError)
async def restore_user(actor: CurrentAdmin, user_id: UserId, container: ContainerDependency) -> AdminUserResponse:
    """Undo a user's deletion, which is possible until the hold-back (the days between deletion and erasure) ends."""
    return await container.users.administration.restore_user(actor, user_id)


@router.delete("/{user_id}")
@raises(UserNotFoundError)
async def delete_user_of_another(
    actor: CurrentAdmin, user_id: UserId, container: ContainerDependency
) -> DeletionResponse:
    """Delete a user. `restore` undoes this until the hold-back (the days between deletion and erasure) ends. Deleting a
    user twice changes nothing."""
    return await container.users.administration.delete_user(actor, user_id)
