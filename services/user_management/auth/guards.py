"""Guards of routes that anybody may call; all other routes declare a guard of another module of this package.

They are coroutines, as every dependency here is: FastAPI runs a plain function in a thread, for which /health would
wait.
"""

from fastapi import Request

from services.user_management.auth.rate_limits import anonymous_limit
from services.user_management.exceptions import RateLimitedError, raises


async def public() -> None:
    """Let anybody pass, signed in or not, and count nothing: for probes. A route declares even this, so that tests
    can find one that has no guard by mistake."""


@raises(RateLimitedError)
async def anonymous(request: Request) -> None:
    """Let anybody pass, signed in or not, within the allowance of their address. Raises RateLimitedError."""
    await anonymous_limit(request)
