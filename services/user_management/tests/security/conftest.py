"""Fixtures: an application with an administrator and without rate limits, and callers of every kind for it."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from services.sandbox.app import create_app as create_sandbox_app
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.http_client import create_http_client
from services.user_management.main import create_app
from services.user_management.settings import Settings
from services.user_management.settings.groups import LimitsGroup
from services.user_management.settings.values import QuotaPolicy
from services.user_management.tests.conftest import API_URL, SANDBOX_URL
from services.user_management.tests.journey import Journey
from services.user_management.tests.security.callers import ADMIN_ID, Caller, callers

UNLIMITED = QuotaPolicy(1_000_000, 1)


@pytest.fixture(scope="session")
async def exposed_app(settings: Settings, sandbox_session: Sandbox) -> AsyncIterator[FastAPI]:
    """Return an application with an administrator and limits that no test reaches, over a container of its own."""
    admin = settings.admin.model_copy(update={"user_ids": [ADMIN_ID]})
    limits = settings.limits.model_copy(update=dict.fromkeys(LimitsGroup.model_fields, UNLIMITED))
    ours = settings.model_copy(update={"admin": admin, "limits": limits})
    transport = httpx.ASGITransport(app=create_sandbox_app(sandbox_session))
    graph = Container(ours, http=create_http_client(transport))
    await graph.start()
    app = create_app(ours, graph)
    app.state.container = graph
    yield app
    await graph.stop()


@pytest.fixture
async def everybody(
    exposed_app: FastAPI,
    clean_database: None,
    sandbox: Sandbox,
    owner: "asyncpg.Connection[asyncpg.Record]",
) -> AsyncIterator[dict[str, Caller]]:
    """Return every kind of caller of `exposed_app`, by the names in CALLERS."""
    ours = httpx.ASGITransport(app=exposed_app)
    theirs = httpx.ASGITransport(app=create_sandbox_app(sandbox))
    async with (
        httpx.AsyncClient(transport=ours, base_url=API_URL) as client,
        httpx.AsyncClient(transport=theirs, base_url=SANDBOX_URL) as browser,
    ):
        container: Container = exposed_app.state.container
        yield await callers(Journey(client=client, browser=browser, sandbox=sandbox, container=container, owner=owner))
