"""The routes by which users read, change and delete their own profile, and by which administrators and permitted
services search for users."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from services.user_management.auth.admin import admin_or_permitted
from services.user_management.auth.clerk import (
    CurrentUser,
    InPerson,
    OwnUserId,
    UserIdPath,
    get_current_user,
    own_user_id,
)
from services.user_management.auth.dependencies import ContainerDependency, get_container
from services.user_management.auth.principals import verified_principal
from services.user_management.core.pagination import DEFAULT_LIMIT, Limit
from services.user_management.core.principal import Principal
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import (
    FieldOwnedUpstreamError,
    PreconditionFailedError,
    UserNotFoundError,
    raises,
)
from services.user_management.routers.conditional import CONDITIONAL, IF_NONE_MATCH, TAGGED, IfMatch
from services.user_management.routers.direct_route import DirectRoute
from services.user_management.routers.json_route import JSONRoute, OwnPathRoute
from services.user_management.routers.user_filter import Cursor, UserFilterQuery
from services.user_management.schemas.user import DeletionResponse, UserPage, UserResponse, UserUpdate

get_searcher = admin_or_permitted(ServicePermission.USERS_SEARCH)

search_router = APIRouter(tags=["users"], route_class=OwnPathRoute)
router = APIRouter(tags=["users"], route_class=JSONRoute)
hot_router = APIRouter(tags=["users"], route_class=DirectRoute, dependencies=[Depends(get_current_user)])


@hot_router.get("/users/{user_id}", responses=CONDITIONAL, openapi_extra=IF_NONE_MATCH)
@raises(UserNotFoundError)
async def get_user(request: Request, user_id: UserIdPath) -> UserResponse:
    """Return the caller's own profile: `user_id` is the caller's id or `me`."""
    return await get_container(request).users.profiles.get_user(
        verified_principal(request), own_user_id(request, user_id)
    )


@hot_router.get("/auth/me", responses=CONDITIONAL, openapi_extra=IF_NONE_MATCH)
@raises(UserNotFoundError)
async def get_me(request: Request) -> UserResponse:
    """Return the caller's own profile, as `GET /users/me` does."""
    return await get_container(request).users.profiles.get_user(verified_principal(request), own_user_id(request, "me"))


@search_router.get("/users/search", dependencies=[Depends(get_searcher)])
async def search_users(
    searcher: Annotated[Principal, Depends(get_searcher)],
    container: ContainerDependency,
    wanted: UserFilterQuery,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> UserPage:
    """List users who are not deleted and match the filters: with `q`, those whose e-mail, first name or last name
    begins with it, in the alphabetical order of the one that does; without `q`, the newest first."""
    return await container.users.administration.search_users(searcher, wanted, limit=limit, cursor=cursor)


@router.patch("/users/{user_id}", responses=TAGGED)
@raises(UserNotFoundError, PreconditionFailedError, FieldOwnedUpstreamError)
async def patch_user(
    actor: CurrentUser,
    user_id: OwnUserId,
    body: UserUpdate,
    expected: IfMatch,
    container: ContainerDependency,
    response: Response,
) -> UserResponse:
    """Change the caller's own profile by JSON Merge Patch (RFC 7396)."""
    user = await container.users.profiles.update_user(actor, user_id, body, expected=expected)
    response.headers["ETag"] = user.etag
    return user


@router.put("/users/{user_id}", responses=TAGGED)
@raises(UserNotFoundError, PreconditionFailedError, FieldOwnedUpstreamError)
async def put_user(
    actor: CurrentUser,
    user_id: OwnUserId,
    body: UserUpdate,
    expected: IfMatch,
    container: ContainerDependency,
    response: Response,
) -> UserResponse:
    """Change the caller's own profile as `PATCH` does: a member that is left out stays as it is."""
    user = await container.users.profiles.update_user(actor, user_id, body, expected=expected)
    response.headers["ETag"] = user.etag
    return user


@router.delete("/users/{user_id}", dependencies=[InPerson])
@raises(UserNotFoundError, PreconditionFailedError)
async def delete_user(
    actor: CurrentUser, user_id: OwnUserId, expected: IfMatch, container: ContainerDependency
) -> DeletionResponse:
    """Delete the calling user. Sessions and integrations end at once, and the data is erased after some days (the
    hold-back). Until then, requests of the user are refused as `user_inactive`, with `deleted_at` and
    `restorable_until`."""
    return await container.users.profiles.delete_user(actor, user_id, expected=expected)
