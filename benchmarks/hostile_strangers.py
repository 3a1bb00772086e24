"""Attacks the service at URL as clients without a valid credential do: `python -m benchmarks.hostile_strangers URL
ATTACK COUNT SECONDS`.

Prints the statuses of the answers as a JSON array, with 0 where no answer came. The attacks: with `bodies`, COUNT
connections keep posting the costliest bodies of 1 MiB for SECONDS, and with `queries` they keep sending the costliest
queries. With `hang_ups`, COUNT requests, spread over SECONDS, end in the middle of their body. With `headers` and
`url`, one request has a head of COUNT megabytes. An attack that has not ended ten seconds after SECONDS is broken off.
"""

import argparse
import asyncio
import base64
import json
import time
from typing import Final
from urllib.parse import urlsplit

import uvloop

DEPTH: Final = 29
BODY_BYTES: Final = 1 << 20
_NESTED: Final = b"[" * DEPTH + b"]" * DEPTH
WORST_BODY: Final = b"[" + b",".join([_NESTED] * (BODY_BYTES // (len(_NESTED) + 1) - 1)) + b"]"
WORST_QUERY: Final = b"GET /health?" + b"&".join(b"%c" % (97 + number % 26) for number in range(4050))
UNKNOWN_KEY: Final = f"Bearer ums_{'0' * 12}_{'0' * 64}"
_CHUNK: Final = 65_536
_TARGETS: Final = (
    ("PATCH /users/me", ""),
    ("POST /internal/tokens/get", f"Authorization: {UNKNOWN_KEY}\r\n"),
    ("POST /internal/tokens/batch-get", f"Authorization: {UNKNOWN_KEY}\r\n"),
    ("POST /admin/services", ""),
    (
        "POST /webhooks/clerk",
        f"svix-id: msg_1\r\nsvix-timestamp: {{now}}\r\nsvix-signature: v1,{base64.b64encode(bytes(32)).decode()}\r\n",
    ),
)
"""Routes, and credentials that are well-formed but not valid; `{now}` stands for the time in Unix seconds."""


def head_of(number: int, length: int) -> bytes:
    """Return the head of the request, with a body of `length` bytes, that the client `number` sends. Clients with
    consecutive numbers send to different routes."""
    target, credential = _TARGETS[number % len(_TARGETS)]
    lines = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{target} HTTP/1.1\r\n{lines}{credential.format(now=int(time.time()))}\r\n".encode()


async def _send(address: tuple[str, int], parts: list[bytes], *, answered: bool = True) -> int:
    """Send `parts` on a new connection, wait for the answer, abort the connection, and return the status of the answer,
    or 0 if none came. With `answered=False`, abort as soon as the parts are sent and return 0.

    The answer may come before all parts are sent. Raises OSError if the server accepts no connection.
    """
    reader, writer = await asyncio.open_connection(*address)

    async def write() -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    writing = asyncio.create_task(write())
    try:
        if not answered:
            await writing
            return 0
        return int((await reader.readuntil(b"\r\n")).split(b" ")[1])
    except (OSError, asyncio.IncompleteReadError):
        return 0
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        writer.transport.abort()


async def bodies(address: tuple[str, int], count: int, ends: float) -> list[int]:
    """Post the costliest body from `count` connections until `ends`, whatever the answers are; return their
    statuses."""
    return await _keep_sending(
        address, [[head_of(number, len(WORST_BODY)), WORST_BODY] for number in range(count)], ends
    )


async def queries(address: tuple[str, int], count: int, ends: float) -> list[int]:
    """Send `/health` thousands of query parameters from `count` connections until `ends`, whatever the answers are;
    return their statuses."""
    return await _keep_sending(address, [[WORST_QUERY, b" HTTP/1.1\r\nHost: x\r\n\r\n"]] * count, ends)


async def _keep_sending(address: tuple[str, int], requests: list[list[bytes]], ends: float) -> list[int]:
    """Send each of `requests`, given in parts, again and again until `ends`, all at the same time. Return the statuses
    of the answers."""
    statuses: list[int] = []

    async def stranger(parts: list[bytes]) -> None:
        while time.monotonic() < ends:
            statuses.append(await _send(address, parts))

    await asyncio.gather(*map(stranger, requests))
    return statuses


async def hang_ups(address: tuple[str, int], count: int, ends: float) -> list[int]:
    """Send `count` requests that end within their body, one after another, evenly spread until `ends`. Return a 0 for
    each, since no answer is waited for."""
    pause = (ends - time.monotonic()) / count
    statuses = []
    for _ in range(count):
        # The service reads the body even of a caller with an unknown key.
        statuses.append(await _send(address, [head_of(1, 1000), b"{"], answered=False))
        await asyncio.sleep(pause)
    return statuses


async def headers(address: tuple[str, int], megabytes: int, _ends: float) -> list[int]:
    """Send one request with header lines of 64 KiB, `megabytes` in all; return its status."""
    line = b"X-Filler: " + b"x" * (_CHUNK - 12) + b"\r\n"
    lines = [line] * (megabytes * 1_000_000 // _CHUNK)
    return [await _send(address, [b"GET /health HTTP/1.1\r\nHost: x\r\n", *lines, b"\r\n"])]


async def url(address: tuple[str, int], megabytes: int, _ends: float) -> list[int]:
    """Send one request whose path is `megabytes` megabytes long; return its status."""
    pieces = [b"x" * _CHUNK] * (megabytes * 1_000_000 // _CHUNK)
    return [await _send(address, [b"GET /", *pieces, b" HTTP/1.1\r\nHost: x\r\n\r\n"])]


ATTACKS: Final = {attack.__name__: attack for attack in (bodies, queries, hang_ups, headers, url)}


async def attack(name: str, service: str, count: int, seconds: float) -> list[int]:
    """Run the attack `name` on the service at the URL `service` and return the statuses of the answers; `[0]` when the
    attack has not ended within ten seconds after `seconds`."""
    parts = urlsplit(service)
    address = parts.hostname or "", parts.port or 80
    try:
        async with asyncio.timeout(seconds + 10):
            return await ATTACKS[name](address, count, time.monotonic() + seconds)
    except TimeoutError:
        return [0]


def main() -> None:
    """Run the attack that the command line names and print its statuses."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_strangers")
    parser.add_argument("url")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("count", type=int)
    parser.add_argument("seconds", type=float)
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(attack(chosen.attack, chosen.url, chosen.count, chosen.seconds))))


if __name__ == "__main__":
    main()
