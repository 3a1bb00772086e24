"""Waiting for a condition by polling."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, pause: float = 0.01) -> bool:
    """Check `condition` every `pause` seconds; return whether it came true within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            for wait in itertools.repeat(pause):
                if await condition():
                    return True
                await asyncio.sleep(wait)
    except TimeoutError:
        return False
    return False
