"""The driver of the benchmark `token_load`, and the comparison of its ledger with the reads that the service
recorded."""

import asyncio
import random
from itertools import islice

from benchmarks.seeding import SeededUser
from benchmarks.token_load import differing_users
from benchmarks.token_load_driver import Read, offer, request_of, rounds
from services.devstack.ports import LOOPBACK

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
READS = 3


class Hesitant:
    """A server that answers no request before all READS requests have arrived."""

    def __init__(self) -> None:
        self._asked = 0
        self._all_asked = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self._asked += 1
        if self._asked == READS:
            self._all_asked.set()
        await self._all_asked.wait()
        writer.write(ANSWER)
        await reader.read()
        writer.close()


def read_of(user: int) -> Read:
    """Return a read for the user of this number that was answered 200."""
    return Read(user, due=0.0, sent=0.0, answered=0.0, status=200)


async def test_offer_without_answers_goes_on_sending() -> None:
    server = await asyncio.start_server(Hesitant(), LOOPBACK, 0)
    url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    requests = [request_of(user, url, "key") for user in range(READS)]

    async with server:
        reads = await offer(requests, iter(range(READS)), url, rate=READS, seconds=1)

    assert sorted(read.user for read in reads) == list(range(READS))
    assert {read.status for read in reads} == {200}


async def test_offer_to_nobody_records_that_no_answer_came() -> None:
    server = await asyncio.start_server(Hesitant(), LOOPBACK, 0)
    url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()

    reads = await offer([request_of(0, url, "key")], iter([0]), url, rate=1, seconds=1)

    assert [read.status for read in reads] == [0]


def test_rounds_of_users_name_everybody_before_anybody_again() -> None:
    lots = random.Random(7)  # noqa: S311 - the order of a test

    order = list(islice(rounds(5, lots), 10))

    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))


def test_differing_users_with_right_total_in_wrong_names_are_found() -> None:
    first, second = (SeededUser.numbered(number).id for number in range(2))

    assert differing_users([read_of(0), read_of(1)], {first: 1, second: 1}) == 0
    assert differing_users([read_of(0), read_of(1)], {first: 2}) == 2
