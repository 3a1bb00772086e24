"""The guards of routes that anybody may call; all others declare one of the other modules here.

Coroutines, as every dependency here: FastAPI runs a plain function in a thread, for which /health would wait.
"""

from fastapi import Request

from services.user_management.auth.rate_limits import anonymous_limit
from services.user_management.exceptions import RateLimitedError, raises


async def public() -> None:
    """Nobody has to be signed in, and nobody is counted: probes. Declared, so that a route without any guard is a
    mistake that tests find."""


@raises(RateLimitedError)
async def anonymous(request: Request) -> None:
    """Nobody has to be signed in; each address has its allowance. Raises RateLimitedError."""
    await anonymous_limit(request)
