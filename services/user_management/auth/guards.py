"""Guards of routes that anybody may call; every other route declares a guard that checks a credential.

They are coroutines, as is every dependency of this service: FastAPI would run a plain function in a thread, and /health
would have to wait until a thread is free.
"""

from fastapi import Request

from services.user_management.auth.rate_limits import anonymous_limit
from services.user_management.exceptions import RateLimitedError, raises


async def public() -> None:
    """Let anybody pass, signed in or not, and count nothing against a rate limit: for probes. A public route declares
    this guard explicitly, so that tests can find a route that lacks a guard by mistake."""


@raises(RateLimitedError)
async def anonymous(request: Request) -> None:
    """Let anybody pass, signed in or not, and count the request against the rate limit of their address. Raises
    RateLimitedError."""
    await anonymous_limit(request)
