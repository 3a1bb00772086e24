"""Rate limits as guards, and for sibling services as a function: each counts the request once, and adds headers to the
answer that say what is left."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request
from fastapi_limiter.depends import RateLimiter

from services.user_management.auth.dependencies import get_container
from services.user_management.auth.principals import verified_principal
from services.user_management.core.context import add_response_headers, current_context
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import address_key


async def principal(request: Request) -> str:
    """Return the id of the principal whom a guard of this request has verified."""
    return verified_principal(request).id


async def client_address(_request: Request) -> str:
    """Return the client's address; for an IPv6 address its /64 network."""
    return address_key(current_context().ip_address)


async def refused_address(request: Request) -> str:
    """Return the client's address with a prefix, so that refused credentials are counted apart from other requests.
    Otherwise bad credentials sent from a shared address would block its other users at a provider's callback, which is
    also counted by address."""
    return f"refused:{await client_address(request)}"


class RequestLimit(RateLimiter):
    """A guard that counts each request in one rate class, under the key that `identifier` returns: a dependency of
    fastapi-limiter, over the rate limits of the container.

    The library's own `__call__` walks `app.routes` for a path that included routers no longer have, and its limiter is
    fixed when modules are imported. Both are replaced here; of the library's class only its place as a dependency is
    left.
    """

    def __init__(self, rate_class: RateClass, identifier: Callable[[Request], Awaitable[str]]) -> None:
        self.rate_class = rate_class
        self.identifier = identifier

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # headers go through the context
        """Count the request, and add the headers that say what is left. Raises RateLimitedError if nothing was left."""
        limits = get_container(request).resources.rate_limits
        allowance = await limits.spend(self.rate_class, await self.identifier(request))
        add_response_headers(allowance.headers())

    async def known_wait(self, request: Request) -> int:
        """Return for how many more microseconds requests with the same key will be refused, as far as this process
        knows; 0 if it knows of no refusal. The request is not counted."""
        limits = get_container(request).resources.rate_limits
        return limits.known_wait(self.rate_class, await self.identifier(request)) if limits.knows_of_waits else 0


user_limit: Final = RequestLimit(RateClass.USER, principal)
anonymous_limit: Final = RequestLimit(RateClass.ANONYMOUS, client_address)
refusal_limit: Final = RequestLimit(RateClass.ANONYMOUS, refused_address)
sign_in_limit: Final = RequestLimit(RateClass.SIGN_IN, client_address)
webhook_limit: Final = RequestLimit(RateClass.WEBHOOK, client_address)


def spend_internal(request: Request, key: str) -> None:
    """Count a sibling service's request under `key`, in this process alone, and add the headers that say what is left.
    Raises RateLimitedError if nothing was left."""
    add_response_headers(get_container(request).resources.rate_limits.spend_here(RateClass.INTERNAL, key).headers())
