"""Where bodies are parsed: what may take over 5 ms does not hold the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE_BYTES: Final = 8192
"""Measured with the worst documents of this size (lists in lists, and a schema's error for each of 900 names): 3 ms to
parse and validate. Bodies of the hot paths are far smaller."""
_THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="parser")
"""One: threads that compute share the interpreter, and each of them would make the loop wait its turn."""

T = TypeVar("T")


async def parse_aside(parse: Callable[[bytes], T], raw: bytes) -> T:
    """`parse(raw)`, in the parser's thread unless `raw` is small. Raises what `parse` does."""
    if len(raw) <= AT_ONCE_BYTES:
        return parse(raw)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, parse, raw)
