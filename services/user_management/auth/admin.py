"""Guards (FastAPI dependencies) for administration: they let in administrators, who are users in ADMIN_USER_IDS or
services with the permission `admin`, and services with the one permission that a route names."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request

from services.user_management.auth.clerk import DocumentedSession, authenticate_user
from services.user_management.auth.service_auth import (
    DocumentedBearer,
    DocumentedHeader,
    get_current_service,
    presents_service_key,
    require,
)
from services.user_management.core.principal import Principal
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import (
    CrossSiteRequestError,
    DatabaseUnavailableError,
    ForbiddenError,
    KeySetUnavailableError,
    RateLimitedError,
    SessionPendingError,
    UnauthenticatedError,
    UserInactiveError,
    raises,
)


async def _get_caller(request: Request) -> Principal:
    """Authenticate the caller, a service or a user. The form of the credential decides which: a service key that is
    refused is not tried as a session token.

    A user's state is read from the database, not from this process's memory of the last seconds, because an
    administrator who was suspended must not be able to undo that at another process. Raises what the guards of services
    and of users raise.
    """
    if presents_service_key(request):
        return await get_current_service(request)
    return await authenticate_user(request, fresh=True)


def admin_or_permitted(permission: ServicePermission) -> Callable[..., Coroutine[Any, Any, Principal]]:
    """Return a guard that lets in an administrator, or a service with `permission`.

    The guard raises ForbiddenError for anybody else, and what `get_current_service` or, for users, `get_current_user`
    raises.
    """

    @raises(
        UnauthenticatedError,
        SessionPendingError,
        CrossSiteRequestError,
        UserInactiveError,
        RateLimitedError,
        KeySetUnavailableError,
        DatabaseUnavailableError,
        ForbiddenError,
    )
    async def get_admin_or_permitted_service(
        request: Request,
        _session: DocumentedSession = None,
        _bearer: DocumentedBearer = None,
        _header: DocumentedHeader = None,
    ) -> Principal:
        caller = await _get_caller(request)
        require(caller, permission)
        return caller

    return get_admin_or_permitted_service


get_current_admin = admin_or_permitted(ServicePermission.ADMIN)
"""Guard that lets in a user in ADMIN_USER_IDS in a session of their own, or a service with the permission `admin`."""
CurrentAdmin = Annotated[Principal, Depends(get_current_admin)]
