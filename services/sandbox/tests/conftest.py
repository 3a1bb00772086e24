"""Fixtures: a sandbox in the test process, and an HTTP client that calls it without a network."""

from collections.abc import AsyncIterator

import httpx
import pytest

from services.sandbox.app import create_app
from services.sandbox.state import Sandbox
from services.sandbox.tests.dance import BASE_URL


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(base_url=BASE_URL)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(sandbox))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
        yield http
