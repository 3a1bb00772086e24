"""Tests promise R3 of the chaos run: no request and no integration is lost while the APIs and the worker are restarted
one after another, as in a deployment. The callers are clients such as sibling services have."""

import asyncio
import random
import signal
from collections.abc import Sequence
from typing import Final

import httpx

from benchmarks.chaos.aftermath import renewed
from benchmarks.chaos.connections import Connection
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.ledger import Answer, fingerprint
from benchmarks.chaos.waiting import until
from benchmarks.report import Promise
from services.auth_client import AsyncTokenClient, ClientOptions, TokenError
from services.sandbox.providers import KINDS, provider_name
from services.user_management.enums import JobName

PER_KIND: Final = 6
"""Integrations of each kind: half of them are read by the callers, half are refreshed by the worker."""
CALLERS: Final = 6
PROVIDER_SECONDS: Final = 0.5
"""How long the provider takes for a refresh: long enough that a refresh is under way when a process gets SIGTERM."""
EXPIRY_SECONDS: Final = 0.3
"""Time from making the token of one integration expire to making that of the next one expire."""
WORKER: Final = "worker"
PROCESSES: Final = ("web", WORKER, "web-2")
"""Processes in the order in which they are restarted."""
_BUSY_WITHIN_SECONDS: Final = 20.0
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Balancer(httpx.AsyncBaseTransport):
    """HTTP transport that acts as the load balancer in front of several processes: if one cannot be connected to, the
    request goes to the next one.

    A request that was sent is never sent to another process: a balancer cannot know what a POST has done. If the
    connection fails after that, the request counts as dropped.
    """

    def __init__(self, ports: Sequence[int], transport: httpx.AsyncBaseTransport) -> None:
        self.dropped: list[str] = []
        """The port and the error of each dropped request."""
        self._ports = list(ports)
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the process that was used last, or to the next one that can be connected to. Raises
        httpx.TransportError when none can, or when the connection fails after the request was sent."""
        for port in list(self._ports):
            request.url = request.url.copy_with(port=port)
            try:
                return await self._transport.handle_async_request(request)
            except _NOT_SENT as error:
                failure = error
            except httpx.TransportError as error:
                self.dropped.append(f"{port}: {error!r}")
                raise
            self._ports.append(self._ports.pop(0))
        raise failure

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


async def roll(fleet: Fleet, restarts: int, *, every_seconds: float, chance: random.Random) -> list[Promise]:
    """Test R3: restart the PROCESSES in turn, `restarts` times in all, and begin one at most every `every_seconds`,
    while callers ask for tokens with the client that sibling services use. Return the promises. Raises BenchmarkError,
    DevstackError, MainJobError."""
    read, worked = ([one for kind in KINDS for one in fleet.take(kind, PER_KIND // 2)] for _ in range(2))
    for kind in KINDS:
        await fleet.witness.change(kind, delay_seconds=PROVIDER_SECONDS)
    over = asyncio.Event()
    ports = [int(url.rpartition(":")[2]) for url in fleet.stack.api_urls]
    balancer = Balancer(ports, httpx.AsyncHTTPTransport())
    load = asyncio.create_task(_load(fleet, read, chance, balancer=balancer, over=over))
    names = [PROCESSES[number % len(PROCESSES)] for number in range(restarts)]
    under_way = 0
    for name in names:
        next_at = asyncio.get_running_loop().time() + every_seconds
        if name == WORKER:
            under_way += await _busy(fleet, worked)
        await _restart(fleet, name)
        await asyncio.sleep(max(0.0, next_at - asyncio.get_running_loop().time()))
    over.set()
    answers = await load
    for kind in KINDS:
        await fleet.witness.change(kind, delay_seconds=0)
    for failure in balancer.dropped:
        fleet.ledger.note("dropped", failure=failure)
    connections = [*read, *worked]
    lost = sum(not answer.works for answer in await renewed(fleet, connections, promise="R3"))
    counts = {"restarts": restarts, "requests": len(answers), "refreshes": sum(one.refreshed for one in answers)}
    of_workers = names.count(WORKER)
    return [
        Promise.at_most("R3.lost", f"of {len(connections)} connections lost", lost, 0, counts=counts),
        Promise.at_most("R3.unserved", f"of {len(answers)} requests unserved", sum(not it.works for it in answers), 0),
        Promise.at_most("R3.dropped", "requests dropped after they were sent", len(balancer.dropped), 0),
        Promise.at_least(
            "R3.refreshes", "requests that waited for a refresh", counts["refreshes"], restarts - of_workers
        ),
        Promise.at_least(
            "R3.worker_refreshes", f"under way in {of_workers} workers told to end", under_way, of_workers
        ),
    ]


async def _restart(fleet: Fleet, name: str) -> None:
    await asyncio.to_thread(fleet.stack.kill, name, signal.SIGTERM)
    await asyncio.to_thread(fleet.stack.start_process, name)


async def _busy(fleet: Fleet, connections: Sequence[Connection]) -> int:
    """Make the tokens of these integrations due, wait up to 20 s until the worker has begun to refresh them, and return
    how many refreshes are under way then; 0 if it has not begun."""
    await fleet.rows.make_due(*connections)
    await fleet.rows.free_slot(JobName.REFRESH_DUE_TOKENS)

    async def has_begun() -> bool:
        return await fleet.rows.count_unsettled(connections) > 0

    await until(has_begun, seconds=_BUSY_WITHIN_SECONDS)
    return await fleet.rows.count_unsettled(connections)


async def _load(
    fleet: Fleet, connections: Sequence[Connection], chance: random.Random, *, balancer: Balancer, over: asyncio.Event
) -> list[Answer]:
    """Have CALLERS callers ask for tokens, each 10 ms after the answer to its last request, while the tokens of
    integrations chosen at random expire, until `over` is set; return the answers."""
    answers: list[Answer] = []

    async def expire() -> None:
        while not over.is_set():
            await fleet.rows.run_out(chance.choice(connections))
            await asyncio.sleep(EXPIRY_SECONDS)

    async def call(client: AsyncTokenClient) -> None:
        while not over.is_set():
            answers.append(await _ask(fleet, client, chance.choice(connections)))
            await asyncio.sleep(0.01)

    async with httpx.AsyncClient(transport=balancer) as http:
        options = ClientOptions(max_reuse_seconds=0)
        client = AsyncTokenClient(fleet.stack.api_url, fleet.stack.service_key, http=http, options=options)
        await asyncio.gather(expire(), *(call(client) for _ in range(CALLERS)))
    return answers


async def _ask(fleet: Fleet, client: AsyncTokenClient, connection: Connection) -> Answer:
    number = fleet.ledger.asked(promise="R3", user=connection.user_id, kind=connection.kind)
    try:
        token = await client.get(connection.user_id, provider_name(connection.kind))
    except TokenError as error:
        answer = Answer(error.status, code=error.code, error=error.detail)
    else:
        accepted = await fleet.witness.accepts(connection.kind, token.access_token)
        answer = Answer(200, refreshed=token.refreshed, token=fingerprint(token.access_token), accepted=accepted)
    fleet.ledger.answered(number, answer)
    return answer
