"""Parses large bodies in a thread, so that the event loop goes on meanwhile. The thread shares the interpreter with the
loop, so parsing there still delays the loop, but less than parsing in the loop would."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE_BYTES: Final = 8192
"""The largest body that is parsed in the event loop. The worst documents of this size (lists in lists, and a schema's
error for each of 900 names) took 3 ms to parse and validate. Bodies of the hot paths are far smaller."""
_THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="parser")
"""The parser's only thread: computing threads share the interpreter, and each further one would make the event loop
wait longer."""

T = TypeVar("T")


async def parse_aside(parse: Callable[[bytes], T], raw: bytes) -> T:
    """Return `parse(raw)`, computed in the parser's thread unless `raw` is small. Raises what `parse` raises."""
    if len(raw) <= AT_ONCE_BYTES:
        return parse(raw)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, parse, raw)
