"""Measures what a million callers cost the rate limiter.

The figures are the memory of a process that runs the rate limiter, with Redis and without it, and that of Redis itself.
A caller with many addresses can create a key for each; neither the process nor Redis may keep them for good.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from redis import Redis

from benchmarks import report
from benchmarks.deployment import REPOSITORY
from benchmarks.errors import BenchmarkError
from benchmarks.report import Circumstances, Promise
from services.devstack import process
from services.devstack.folders import scratch_folder
from services.devstack.valkey import SOCKET_NAME, ValkeyServer, valkey_url

MAXIMUM_GROWTH_MEGABYTES: Final = 50.0
_RUN_SECONDS: Final = 900.0
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    keys: int
    """Number of keys that are counted in the process's own memory, without Redis."""
    redis_keys: int
    """Number of keys that are counted in Redis; the figures of Redis are per million."""
    json_path: Path | None


@dataclass(frozen=True, slots=True)
class Spent:
    """The memory and time that one new process needed to count a request against each of `keys` keys."""

    keys: int
    grown_megabytes: float
    microseconds: float
    """The whole time, divided by the number of keys; 32 are counted at once."""
    degraded: bool
    """Whether the process did without Redis at the end."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What Redis holds after the run has counted its requests: the number of rate-limit keys, how many of them never
    expire, and by how many bytes Redis's memory has grown."""

    keys: int
    without_expiry: int
    used_bytes: int

    @property
    def megabytes_per_million(self) -> float:
        """Redis's memory in megabytes per million keys."""
        return self.used_bytes / max(1, self.keys)


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("rate_limit_memory", seed=0)
    print(circumstances.line(), flush=True)
    with scratch_folder() as folder:
        alone = _spend(valkey_url(folder / SOCKET_NAME), options.keys)
        shared, stored = _spend_in_redis(folder, options.redis_keys)
    return report.conclude(
        _table(alone, shared, stored),
        promises(alone, shared, stored),
        circumstances,
        json_path=options.json_path,
        details={"alone": asdict(alone), "shared": asdict(shared), "stored": asdict(stored)},
    )


def promises(alone: Spent, shared: Spent, stored: Stored) -> list[Promise]:
    """Return a promise for each figure that has a limit, with its verdict; Redis's memory has none, since its keys
    expire by themselves."""
    name, what, limit = "rate_limit_memory", "MB grown", MAXIMUM_GROWTH_MEGABYTES
    return [
        Promise.at_most(f"{name}.in_process", what, alone.grown_megabytes, limit, counts={"keys": alone.keys}),
        Promise.at_most(f"{name}.with_redis", what, shared.grown_megabytes, limit, counts={"keys": shared.keys}),
        Promise.at_least(f"{name}.fell_back", "(1: it did without Redis)", float(alone.degraded), 1),
        Promise.at_most(f"{name}.stayed_shared", "(0: Redis counted)", float(shared.degraded), 0),
        Promise.at_least(f"{name}.stored", "keys in Redis", stored.keys, shared.keys),
        Promise.at_most(f"{name}.immortal", "keys without expiry", stored.without_expiry, 0),
    ]


def _spend_in_redis(folder: Path, count: int) -> tuple[Spent, Stored]:
    with ValkeyServer(folder / "valkey", settings={"appendonly": "no"}) as valkey, _client(valkey) as redis:
        empty = _used_bytes(redis)
        spent = _spend(valkey.url(), count)
        lifetimes = _lifetimes(redis)
        without_expiry = sum(lifetime < 0 for lifetime in lifetimes)
        return spent, Stored(len(lifetimes), without_expiry, _used_bytes(redis) - empty)


def _client(valkey: ValkeyServer) -> Redis:
    return Redis.from_url(valkey.url(), decode_responses=True)


def _used_bytes(redis: Redis) -> int:
    memory: Mapping[str, Any] = redis.info("memory")
    return int(memory["used_memory"])


def _lifetimes(redis: Redis) -> list[int]:
    """Return the PTTL of every key in milliseconds; -1 stands for a key that never expires. Keys that expire meanwhile
    are left out."""
    names = redis.scan_iter(match="{rl}:*", count=_BATCH)
    lifetimes: list[int] = []
    while batch := list(islice(names, _BATCH)):
        pipeline = redis.pipeline(transaction=False)
        for name in batch:
            pipeline.pttl(name)
        lifetimes += pipeline.execute()
    # -2 stands for a key that has expired since, as it should.
    return [lifetime for lifetime in lifetimes if lifetime != -2]


def _spend(url: str, count: int) -> Spent:
    """Run `rate_limit_child`, which counts a request against each of `count` keys, in a new process, and return its
    figures. Raises BenchmarkError."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "benchmarks.rate_limit_child", url, str(count)]
    finished = process.run(command, env=environment, timeout=_RUN_SECONDS)
    if finished.returncode != 0:
        raise BenchmarkError(f"rate_limit_child: {finished.last_line}")
    answer = json.loads(finished.last_line)
    return Spent(count, answer["grown_bytes"] / 1e6, answer["microseconds"], answer["degraded"])


def _table(alone: Spent, shared: Spent, stored: Stored) -> str:
    heading = ["", "keys", "process MB grown", "µs each", "Redis MB/million"]
    rows = [
        [name, str(spent.keys), f"{spent.grown_megabytes:.1f}", f"{spent.microseconds:.1f}", redis]
        for name, spent, redis in (
            ("in process", alone, ""),
            ("with Redis", shared, f"{stored.megabytes_per_million:.0f}"),
        )
    ]
    return report.table([heading, *rows])
