"""Further processes of the service, besides those of a stack and with the same servers, for crash tests to kill."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx

from services.devstack import ports, process
from services.devstack.child import Child
from services.devstack.errors import DevstackError
from services.devstack.running_service import REPOSITORY
from services.devstack.stack import Stack

START_SECONDS: Final = 60.0


def start(stack: Stack, name: str, log: Path, environment: Mapping[str, str], *arguments: str) -> Child:
    """Start another process of the kind that the Procfile calls `name`, with further `arguments` and with
    `environment` overriding the stack's; it dies with this process. Raises `DevstackError` if there is no such kind,
    or before the stack's start."""
    with log.open("ab") as output:
        return process.spawn(
            [*stack.command(name), *arguments],
            env={**stack.environment, **environment},
            cwd=REPOSITORY,
            streams=process.Streams(stdout=output),
        )


class Replica:
    """A further process of the API. Creating the object starts it; it serves once `until_ready` has returned."""

    def __init__(self, stack: Stack, port: int, log: Path, environment: Mapping[str, str]) -> None:
        self.url = f"http://{ports.LOOPBACK}:{port}"
        self.child = start(stack, "web", log, {**environment, "PORT": str(port)})
        self._port = port
        self._log = log

    @property
    def pid(self) -> int:
        """Return the replica's process id."""
        return self.child.pid

    async def until_ready(self, client: httpx.AsyncClient) -> None:
        """Wait until this very process serves. Raises TimeoutError after 60 s, and DevstackError when it ends or
        another program answers on its port."""
        async with asyncio.timeout(START_SECONDS):
            while not await self._is_ready(client):
                if self.child.returncode is not None:
                    raise DevstackError(f"a replica ended while starting: {self._log.read_text()[-2000:]}")
                await asyncio.sleep(0.02)
        if not ports.is_served_by(self._port, self.pid):
            raise DevstackError(f"another program than our replica answers on port {self._port}")

    async def until_ended(self) -> int | None:
        """Wait for the process to end and return its return code: negative if a signal ended it, None if it still runs
        after ten seconds."""
        return await asyncio.to_thread(self.child.wait, 10)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        with suppress(httpx.TransportError):
            return (await client.get(f"{self.url}/ready")).status_code == 200
        return False


async def successive_replicas(
    stack: Stack, client: httpx.AsyncClient, log: Path, environments: Sequence[Mapping[str, str]], *, ahead: int = 2
) -> AsyncGenerator[Replica, None]:
    """Yield a ready replica for each of `environments`, one after another. The caller must have ended each replica
    before asking for the next one.

    `ahead` further replicas start while one serves. They take turns on `ahead + 1` ports, so that ports are reused as
    by a process that is restarted. Raises TimeoutError and DevstackError as `until_ready` does.
    """
    own_ports = ports.free_ports(ahead + 1)
    waiting = deque[Replica]()
    try:
        for number, environment in enumerate([*environments, *[None] * (ahead + 1)]):
            if len(waiting) > ahead or environment is None:
                if not waiting:
                    return
                await waiting[0].until_ready(client)
                yield waiting[0]
                waiting.popleft()
            if environment is not None:
                waiting.append(Replica(stack, own_ports[number % (ahead + 1)], log, environment))
    finally:
        for replica in waiting:
            replica.child.kill()


@asynccontextmanager
async def parallel_replicas(
    stack: Stack, client: httpx.AsyncClient, log: Path, environments: Sequence[Mapping[str, str]]
) -> AsyncIterator[list[Replica]]:
    """Start a replica for each of `environments`, yield them all when they are ready, and kill them at the end of the
    block. Raises TimeoutError and DevstackError as `until_ready` does."""
    free = ports.free_ports(len(environments))
    replicas = [Replica(stack, port, log, environment) for port, environment in zip(free, environments, strict=True)]
    try:
        for replica in replicas:
            await replica.until_ready(client)
        yield replicas
    finally:
        for replica in replicas:
            replica.child.kill()
