"""Offers a burst of webhooks: `python -m benchmarks.webhook_sender URL MESSAGES RATE CONNECTIONS SEED LEDGER`.

Each delivery is due at a time that the rate sets, whether or not those before it were answered, and is timed from then:
waiting for a free connection counts as a delay of the receiver. Writes a ledger of what it sent and how it was
answered, a JSON object in each line: first the messages, then the deliveries in the order in which they ended.
"""

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import uvloop

from benchmarks.webhook_messages import Message, deliveries, make_messages
from services.sandbox.clerk.webhooks import signature_headers

SECRET_VARIABLE: Final = "CLERK_WEBHOOK_SIGNING_SECRET"  # noqa: S105 - the name of a variable
PATH: Final = "/webhooks/clerk"
PATIENCE_SECONDS: Final = 15.0
"""The timeout of a delivery, after which Svix, too, counts it as failed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one delivery went; times in seconds since the first was due."""

    message_id: str
    due: float
    sent: float
    answered: float
    status: int
    """The status of the answer; 0 when none came."""

    @property
    def accepted(self) -> bool:
        """Whether the answer was 2xx, after which a sender does not try again."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Prepared:
    """One delivery that is ready to be sent."""

    message_id: str
    due: float
    request: bytes


class Connection:
    """An HTTP connection, opened by the first request and kept open until a request fails or `close` is called."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, request: bytes) -> int:
        """Send the request; return the status once the answer is complete, or 0 when none came within 15 seconds. The
        answer must have a Content-Length."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0

    async def _exchange(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((line for line in headers if line.startswith(b"content-length:")), b"")
        await reader.readexactly(int(length.partition(b":")[2]))
        return int(status.split(b" ")[1])

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def prepare(messages: list[Message], url: str, rate: float, lots: random.Random) -> Iterator[Prepared]:
    """Yield each message twice, signed, in the order in which the deliveries are due; `rate` is their number per
    second."""
    host, secret = urlsplit(url).netloc, os.environ[SECRET_VARIABLE]
    for number, message in zip(count(), deliveries(messages, lots), strict=False):
        signed = signature_headers(
            message.body, message_id=message.id, timestamp=int(time.time()), secrets=secret.split()
        )
        headers = {"host": host, "content-type": "application/json", "content-length": str(len(message.body)), **signed}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield Prepared(message.id, number / rate, f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + message.body)


async def offer(prepared: list[Prepared], url: str, connections: int) -> list[Delivery]:
    """Send all deliveries, each when it is due or as soon after as a connection is free; return them in the order in
    which they ended."""
    parts = urlsplit(url)
    began = time.monotonic() + 0.1
    waiting, ended = iter(prepared), []

    async def send_in_turn() -> None:
        connection = Connection(parts.hostname or "", parts.port or 80)
        for one in waiting:
            await asyncio.sleep(max(0.0, began + one.due - time.monotonic()))
            sent = time.monotonic() - began
            status = await connection.post(one.request)
            ended.append(Delivery(one.message_id, one.due, sent, time.monotonic() - began, status))
        connection.close()

    async with asyncio.TaskGroup() as senders:
        for _ in range(connections):
            senders.create_task(send_in_turn())
    return ended


def _write(ledger: IO[str], kind: str, entry: dict[str, object]) -> None:
    ledger.write(f"{json.dumps({'kind': kind, **entry})}\n")


def main() -> None:
    """Offer the burst that the command line describes and write the ledger."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhook_sender")
    parser.add_argument("url")
    for name in ("messages", "rate", "connections", "seed"):
        parser.add_argument(name, type=int)
    parser.add_argument("ledger", type=Path)
    arguments = parser.parse_args()
    lots = random.Random(arguments.seed)  # noqa: S311 - the same burst for the same seed
    messages = make_messages(arguments.messages, lots)
    prepared = list(prepare(messages, arguments.url, arguments.rate, lots))
    with arguments.ledger.open("w") as ledger:
        for message in messages:
            _write(ledger, "message", message.as_json())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for delivery in runner.run(offer(prepared, arguments.url, arguments.connections)):
                _write(ledger, "delivery", asdict(delivery))


if __name__ == "__main__":
    main()
