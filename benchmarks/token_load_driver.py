"""Offers token reads at a fixed rate, as an open loop.

Usage: `python -m benchmarks.token_load_driver URL KEY_VARIABLE USERS RATE SECONDS SEED LEDGER`. Each read is sent when
it is due, whether or not those before it were answered, and is timed from then, so the figures include the time for
which a busy server makes callers wait. Writes a ledger with a JSON array in each line: the number of the user, when the
read was due, sent and answered (seconds since the first was due), and the status.
"""

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import uvloop

from benchmarks.seeding import PROVIDER, SCOPE, SeededUser
from benchmarks.webhook_sender import Connection

PATH: Final = "/internal/tokens/get"
MAXIMUM_IN_FLIGHT: Final = 512
"""Most reads under way at once; further ones wait for a connection, and that wait is part of their latency."""
_IDLE_SECONDS: Final = 2.0
"""A connection that was silent for longer is replaced: the server closes it after five seconds."""
_LEAD_SECONDS: Final = 0.1


class Read(NamedTuple):
    """How one read went; times in seconds since the first was due."""

    user: int
    due: float
    sent: float
    answered: float
    status: int
    """The status of the answer; 0 when none came."""


class Lines:
    """Pool of connections to the server. The one that was given back last is used next, so that few are open."""

    def __init__(self, host: str, port: int) -> None:
        self._free: asyncio.LifoQueue[tuple[Connection, float]] = asyncio.LifoQueue()
        for _ in range(MAXIMUM_IN_FLIGHT):
            self._free.put_nowait((Connection(host, port), 0.0))

    async def post(self, request: bytes) -> tuple[float, int]:
        """Send the request; return when it was sent (time.monotonic) and the status of the answer (0 when none
        came)."""
        connection, used_at = await self._free.get()
        sent = time.monotonic()
        if sent - used_at > _IDLE_SECONDS:
            connection.close()
        status = await connection.post(request)
        self._free.put_nowait((connection, time.monotonic()))
        return sent, status

    def close(self) -> None:
        """Close all connections."""
        while not self._free.empty():
            connection, _ = self._free.get_nowait()
            connection.close()


def request_of(user: int, url: str, key: str) -> bytes:
    """Return the bytes of a token read for the user of that number."""
    wanted = {"user_id": SeededUser.numbered(user).id, "provider": PROVIDER, "scopes": [SCOPE]}
    body = json.dumps(wanted).encode()
    headers = {
        "host": urlsplit(url).netloc,
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


def rounds(users: int, lots: random.Random) -> Iterator[int]:
    """Yield all users in a random order, then in another one, without end."""
    everybody = list(range(users))
    while True:
        lots.shuffle(everybody)
        yield from everybody


async def offer(requests: list[bytes], order: Iterator[int], url: str, *, rate: int, seconds: int) -> list[Read]:
    """Send `rate` reads a second for `seconds`, wait for the last answer, and return the reads in the order in which
    they ended. `order` gives the user number of each read, and `requests` the bytes to send for each number."""
    parts = urlsplit(url)
    lines, reads = Lines(parts.hostname or "", parts.port or 80), []
    began = time.monotonic() + _LEAD_SECONDS

    async def read(user: int, due: float) -> None:
        sent, status = await lines.post(requests[user])
        reads.append(Read(user, due, sent - began, time.monotonic() - began, status))

    async with asyncio.TaskGroup() as under_way:
        for number in range(rate * seconds):
            due = number / rate
            # Sleep even when late: the reads under way get a turn between two new ones.
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            under_way.create_task(read(next(order), due))
    lines.close()
    return reads


def main() -> None:
    """Offer the reads that the command line describes and write the ledger."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_load_driver")
    parser.add_argument("url")
    parser.add_argument("key_variable", help="the variable of the environment that holds the service key")
    for name in ("users", "rate", "seconds", "seed"):
        parser.add_argument(name, type=int)
    parser.add_argument("ledger", type=Path)
    arguments = parser.parse_args()
    key = os.environ[arguments.key_variable]
    requests = [request_of(user, arguments.url, key) for user in range(arguments.users)]
    order = rounds(arguments.users, random.Random(arguments.seed))  # noqa: S311 - the same reads for the same seed
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        offered = offer(requests, order, arguments.url, rate=arguments.rate, seconds=arguments.seconds)
        reads = runner.run(offered)
    arguments.ledger.write_text("".join(f"{json.dumps(read)}\n" for read in reads))


if __name__ == "__main__":
    main()
