"""Waiting for what nobody announces."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, pause: float = 0.01) -> bool:
    """Whether `condition` came true within `seconds`; looked at every `pause` seconds."""
    try:
        async with asyncio.timeout(seconds):
            for wait in itertools.repeat(pause):
                if await condition():
                    return True
                await asyncio.sleep(wait)
    except TimeoutError:
        return False
    return False
