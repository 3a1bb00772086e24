"""The sandbox as a process of its own: its issuer, a real connection that a fault breaks, and SIGTERM."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

pytestmark = pytest.mark.serial
LIMIT_SECONDS: Final = 60
"""Limit for each wait. Only a defect reaches it, and it is far below the ten minutes for which a fault holds a
call."""


@dataclass(frozen=True, slots=True)
class _Running:
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient


async def _answering(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                await client.get("/health")
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
async def running() -> AsyncIterator[_Running]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = os.environ | {"SANDBOX_PORT": str(port), "SANDBOX_HOST": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.sandbox", env=environment)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await _answering(client)
            yield _Running(process, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_process_issuer_is_its_own_address(running: _Running) -> None:
    document = (await running.client.get("/oidc/strict/.well-known/openid-configuration")).json()

    assert document["issuer"] == f"{str(running.client.base_url).rstrip('/')}/oidc/strict"


async def test_process_faults_break_the_real_connection(running: _Running) -> None:
    for action in ("reset", "reset_mid_body"):
        await running.client.post("/_faults", json={"party": "clerk", "operation": "jwks", "action": action})

    with pytest.raises(httpx.ReadError):
        await running.client.get("/clerk/.well-known/jwks.json")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await running.client.get("/clerk/.well-known/jwks.json")

    assert (await running.client.get("/clerk/.well-known/jwks.json")).status_code == 200


async def test_process_on_sigterm_stops_though_a_call_is_held(running: _Running) -> None:
    fault = {"party": "clerk", "operation": "jwks", "action": "delay", "delay_seconds": 600}
    await running.client.post("/_faults", json=fault)
    held = asyncio.create_task(running.client.get("/clerk/.well-known/jwks.json", timeout=None))
    async with asyncio.timeout(LIMIT_SECONDS):
        while not (await running.client.get("/_ledger")).json()["items"]:
            pass  # Each look is a request, so the loop is not busy.

    running.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(running.process.wait(), LIMIT_SECONDS)

    with pytest.raises(httpx.HTTPError):
        await held
