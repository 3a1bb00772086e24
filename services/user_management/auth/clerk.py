"""Clerk session tokens: who is the user, and is it their own resource."""

from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from services.user_management.auth.credentials import bearer_token
from services.user_management.auth.dependencies import get_container
from services.user_management.core.context import act_as
from services.user_management.core.principal import Principal
from services.user_management.exceptions import UserNotFoundError
from services.user_management.security.jwt import SessionClaims

_documented = HTTPBearer(
    scheme_name="session", bearerFormat="JWT", auto_error=False, description="Clerk session token of the user"
)


async def verify_jwt_token(request: Request) -> SessionClaims:
    """The claims of the request's session token. Raises UnauthenticatedError or SessionPendingError."""
    return await get_container(request).sessions.verify(bearer_token(request))


async def get_current_user(request: Request, _: Annotated[object, Security(_documented)]) -> Principal:
    """The signed-in, active user; whatever the request does is done in their name."""
    session = await verify_jwt_token(request)
    principal = await get_container(request).users.sign_in(session)
    act_as(principal)
    return principal


CurrentUser = Annotated[Principal, Depends(get_current_user)]


async def verify_user_ownership(
    user: CurrentUser, user_id: Annotated[str, Path(max_length=64, description="A user id, or `me`")]
) -> str:
    """The user id in the path, if it is the caller's own. Raises UserNotFoundError for anybody else's."""
    if user_id not in ("me", user.id):
        raise UserNotFoundError
    return user.id


OwnUserId = Annotated[str, Depends(verify_user_ownership)]
