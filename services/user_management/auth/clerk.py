"""Guards for routes of signed-in users: they find out from Clerk's session token who the user is, whether a resource is
the user's own, and whether somebody else acts as the user."""

from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from services.user_management.auth.credentials import session_tokens
from services.user_management.auth.dependencies import get_container
from services.user_management.auth.principals import remember_principal, verified_principal
from services.user_management.auth.rate_limits import user_limit
from services.user_management.core.principal import Principal
from services.user_management.exceptions import (
    CrossSiteRequestError,
    DatabaseUnavailableError,
    ImpersonationRefusedError,
    KeySetUnavailableError,
    RateLimitedError,
    SessionPendingError,
    UnauthenticatedError,
    UserInactiveError,
    UserNotFoundError,
    raises,
)
from services.user_management.security.jwt import SessionClaims

_documented = HTTPBearer(
    scheme_name="session", bearerFormat="JWT", auto_error=False, description="Clerk session token of the user"
)

DocumentedSession = Annotated[object, Security(_documented)]
UserIdPath = Annotated[str, Path(max_length=64, description="A user id, or `me`")]


async def verify_jwt_token(request: Request) -> SessionClaims:
    """Return the claims of the request's session token, from the Authorization header or from cookies.

    Of several session cookies, those that do not verify are left out, because another Clerk instance on the same host
    may also write the cookie whose name has no suffix. If two verify, one may have been planted, and nobody can tell
    which; so they must belong to one user. Raises UnauthenticatedError, SessionPendingError (also if just one of the
    cookies is of a pending session), CrossSiteRequestError, KeySetUnavailableError.
    """
    sessions = get_container(request).identity.sessions
    verified: list[SessionClaims] = []
    refusal = UnauthenticatedError()
    for token in session_tokens(request):
        try:
            verified.append(await sessions.verify(token))
        except UnauthenticatedError as error:
            refusal = error
    if not verified:
        raise refusal
    if len({(session.issuer, session.subject) for session in verified}) > 1:
        # Each token is valid, so this was no guess and does not count as one.
        raise UnauthenticatedError("The session cookies belong to different users.", counts=False)
    return verified[0]


async def authenticate_user(request: Request, *, fresh: bool) -> Principal:
    """Authenticate the user by the session token, remember them as the request's principal, and count the request
    against their rate limit.

    A user who is new is created. With `fresh`, the user must be active at this very moment; otherwise, they were so
    within the last two seconds. Raises what `get_current_user` declares.
    """
    session = await verify_jwt_token(request)
    principal = await get_container(request).users.sign_in.sign_in(session, fresh=fresh)
    remember_principal(request, principal)
    await user_limit(request)
    return principal


@raises(
    UnauthenticatedError,
    SessionPendingError,
    CrossSiteRequestError,
    UserInactiveError,
    RateLimitedError,
    KeySetUnavailableError,
    DatabaseUnavailableError,
)
async def get_current_user(request: Request, _: DocumentedSession = None) -> Principal:
    """Guard: return the signed-in user, who is active."""
    return await authenticate_user(request, fresh=False)


CurrentUser = Annotated[Principal, Depends(get_current_user)]


def own_user_id(request: Request, user_id: str) -> str:
    """Return the caller's user id if `user_id` is that id or `me`. The caller is the user whom a guard of this request
    has authenticated.

    Raises UserNotFoundError for any other id.
    """
    actor = verified_principal(request)
    if user_id not in ("me", actor.id):
        raise UserNotFoundError
    return actor.id


@raises(UserNotFoundError)
async def verify_user_ownership(request: Request, _user: CurrentUser, user_id: UserIdPath) -> str:
    """Guard: return the user id in the path, if it is the caller's own or `me`. Raises UserNotFoundError for any other
    id."""
    return own_user_id(request, user_id)


OwnUserId = Annotated[str, Depends(verify_user_ownership)]


@raises(ImpersonationRefusedError)
async def refuse_impersonation(user: CurrentUser) -> None:
    """Guard for actions that cannot be undone: raises ImpersonationRefusedError when somebody else acts as the user."""
    if user.impersonator is not None:
        raise ImpersonationRefusedError


InPerson = Depends(refuse_impersonation)
