"""Counts one request against each of many rate limit keys (one for each caller), and prints what that cost this
process, as one line of JSON: `python -m benchmarks.rate_limit_child URL COUNT`."""

import argparse
import asyncio
import gc
import json
import os
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from services.user_management.core.clock import SystemClock
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.settings import QuotaPolicy

KEY_CHARACTERS: Final = 64
"""Length of a key: the greatest length of a user id; addresses are shorter."""
_POLICY: Final = QuotaPolicy(5, 86_400)
"""A quota that refills so slowly that during the run no key regains its full quota, at which it would be removed."""
_WARM_UP_KEYS: Final = 2000
_AT_ONCE: Final = 32
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident set size of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


async def spend(url: str, count: int) -> dict[str, float]:
    """Count one request against each of `count` keys, of all rate classes in turn, after a warm-up with other keys.
    Return the growth of this process's memory (`grown_bytes`), the `microseconds` per key, and whether it did without
    Redis at the end (`degraded`)."""
    redis = create_redis_client(url)
    limits = RateLimits(redis, dict.fromkeys(RateClass, _POLICY), SystemClock())
    await _spend_from(limits, range(_WARM_UP_KEYS))
    gc.collect()
    before, started = resident_bytes(), time.perf_counter()
    await _spend_from(limits, range(_WARM_UP_KEYS, _WARM_UP_KEYS + count))
    seconds = time.perf_counter() - started
    gc.collect()
    grown = resident_bytes() - before
    await redis.aclose()
    return {"grown_bytes": grown, "microseconds": 1e6 * seconds / count, "degraded": limits.degraded}


async def _spend_from(limits: RateLimits, numbers: range) -> None:
    spenders = zip(numbers, cycle(RateClass), strict=False)

    async def work() -> None:
        while batch := list(islice(spenders, 100)):
            for number, rate_class in batch:
                await limits.spend(rate_class, f"{number:0{KEY_CHARACTERS}d}")

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


def main() -> None:
    """Count against the Redis of the URL on the command line, which need not be running, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rate_limit_child")
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(spend(arguments.url, arguments.count))))


if __name__ == "__main__":
    main()
