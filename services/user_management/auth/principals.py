"""The principal of a request (the authenticated user or service): set by the guard that verified a credential, read by
the code that runs after the guard."""

from typing import Final

from fastapi import Request

from services.user_management.core.context import name_actor
from services.user_management.core.principal import Principal

_KEY: Final = "user_management.principal"


def remember_principal(request: Request, principal: Principal) -> None:
    """Keep the verified principal with the request. The log lines of this request name the principal from now on."""
    request.scope[_KEY] = principal
    name_actor(principal)


def verified_principal(request: Request) -> Principal:
    """Return the principal whom a guard of this request has verified. Raises KeyError on a route without such a
    guard, which is a bug of ours."""
    principal: Principal = request.scope[_KEY]
    return principal
