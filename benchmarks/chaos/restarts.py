"""R3: the APIs are restarted one after the other, as a deployment does it, while siblings ask for tokens."""

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
from benchmarks.report import Promise
from services.auth_client import AsyncTokenClient, ClientOptions, TokenError
from services.sandbox.providers import KINDS, provider_name

PER_KIND: Final = 3
CALLERS: Final = 6
PROVIDER_SECONDS: Final = 0.5
"""Long enough that some refresh is always under way when a process is told to end."""
EXPIRY_SECONDS: Final = 0.3
"""Between two connections that expire."""
_WEB: Final = ("web", "web-2")


class Balancer(httpx.AsyncBaseTransport):
    """What stands before several processes: a refused or broken connection is tried again at the other one."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """At the process that answered last; the others follow. Raises httpx.TransportError when none answers."""
        for port in list(self._ports):
            request.url = request.url.copy_with(port=port)
            try:
                return await self._transport.handle_async_request(request)
            except httpx.TransportError as error:
                failure = error
                self._ports.append(self._ports.pop(0))
        raise failure

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


async def roll(fleet: Fleet, restarts: int, *, every_seconds: float, chance: random.Random) -> list[Promise]:
    """Restart `restarts` processes in turn. The callers use the client that siblings use, and nothing else."""
    connections = [connection for kind in KINDS for connection in fleet.take(kind, PER_KIND)]
    for kind in KINDS:
        await fleet.witness.change(kind, delay_seconds=PROVIDER_SECONDS)
    over = asyncio.Event()
    load = asyncio.create_task(_load(fleet, connections, chance, over))
    for number in range(restarts):
        name = _WEB[number % len(_WEB)]
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(fleet.stack.kill, name, signal.SIGTERM)
        await asyncio.to_thread(fleet.stack.start_process, name)
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(max(0.0, every_seconds - took))
    over.set()
    answers = await load
    for kind in KINDS:
        await fleet.witness.change(kind, delay_seconds=0)
    lost = sum(not answer.works for answer in await renewed(fleet, connections, promise="R3"))
    counts = {"restarts": restarts, "requests": len(answers), "refreshes": sum(one.refreshed for one in answers)}
    return [
        Promise.at_most("R3.lost", f"of {len(connections)} connections lost", lost, 0, counts=counts),
        Promise.at_most("R3.unserved", f"of {len(answers)} requests unserved", sum(not it.works for it in answers), 0),
        Promise.at_least("R3.refreshes", "requests that waited for a refresh", counts["refreshes"], restarts),
    ]


async def _load(
    fleet: Fleet, connections: Sequence[Connection], chance: random.Random, over: asyncio.Event
) -> list[Answer]:
    """Callers without a pause, and connections that expire under them, until it is `over`."""
    answers: list[Answer] = []

    async def expire() -> None:
        while not over.is_set():
            await fleet.rows.run_out(chance.choice(connections))
            await asyncio.sleep(EXPIRY_SECONDS)

    async def call(client: AsyncTokenClient) -> None:
        while not over.is_set():
            answers.append(await _ask(fleet, client, chance.choice(connections)))
            await asyncio.sleep(0.01)

    transport = Balancer([int(url.rpartition(":")[2]) for url in fleet.stack.api_urls])
    async with httpx.AsyncClient(transport=transport) as http:
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
