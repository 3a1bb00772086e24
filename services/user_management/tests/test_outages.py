"""Tests of outages of Postgres, Valkey and a provider: what does not need them still works, the rest is refused for the
time being, and all of it works again afterwards without a restart."""

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from services.devstack.folders import scratch_folder
from services.devstack.main_job import MainJob, Person
from services.devstack.postgres import SUPERUSER
from services.devstack.stack import Stack
from services.sandbox.clerk.webhooks import signature_headers
from services.user_management.tests.scenes import assert_problem

pytestmark = pytest.mark.serial

PROVIDER = "sandbox-static"


@dataclass
class Outage:
    """The development stack with the service in a process of its own, a user with an integration, and requests that
    show what works while a server is away."""

    stack: Stack
    job: MainJob
    person: Person

    @property
    def client(self) -> httpx.AsyncClient:
        return self.job.client

    @property
    def key(self) -> dict[str, str]:
        """Return the header with the key of the stack's sibling service."""
        return {"Authorization": f"Bearer {self.stack.service_key}"}

    async def read(self) -> httpx.Response:
        return await self.client.get("/users/me", headers=await self.job.session(self.person.id))

    async def write(self) -> httpx.Response:
        headers = await self.job.session(self.person.id)
        return await self.client.post(f"/users/me/integrations/{PROVIDER}/authorize", headers=headers, json={})

    async def token(self) -> httpx.Response:
        return await self.job.get_token(self.key, self.person.id, PROVIDER)

    async def webhook(self) -> httpx.Response:
        event = {"type": "session.created", "timestamp": 1, "object": "event", "data": {"id": "sess_1"}}
        body = json.dumps(event).encode()
        secret = self.stack.environment["CLERK_WEBHOOK_SIGNING_SECRET"]
        message_id = f"msg_{time.monotonic_ns()}"
        headers = signature_headers(body, message_id=message_id, timestamp=int(time.time()), secrets=[secret])
        return await self.client.post("/webhooks/clerk", headers=headers, content=body)

    async def callback(self) -> httpx.Response:
        return await self.client.get(f"/oauth/callback/{PROVIDER}", params={"state": "s", "code": "c"})

    async def everything(self) -> list[httpx.Response]:
        """Send one request of each kind, and return the answers."""
        return [await self.read(), await self.write(), await self.token(), await self.webhook(), await self.callback()]

    async def run_out(self) -> None:
        """Make the user's access token expire."""
        database = await asyncpg.connect(self.stack.postgres.url(role=SUPERUSER))
        await database.execute(
            "UPDATE encrypted_tokens SET expires_at = now() WHERE kind = 'access' AND integration_id IN"
            " (SELECT id FROM integrations WHERE user_id = $1)",
            self.person.id,
        )
        await database.close()

    @contextmanager
    def without(self, server: str) -> Iterator[None]:
        """Kill a server with SIGKILL, and start it again when the block ends."""
        self.stack.kill(server)
        try:
            yield
        finally:
            self.stack.start_process(server)


@pytest.fixture(scope="module")
def outage_stack() -> Iterator[Stack]:
    with scratch_folder() as folder, Stack(folder / "data", processes=["web", "sandbox"]) as stack:
        yield stack


@pytest.fixture
async def outage(outage_stack: Stack) -> AsyncIterator[Outage]:
    async with AsyncExitStack() as exits:
        client, browser = [
            await exits.enter_async_context(httpx.AsyncClient(base_url=url, timeout=15, trust_env=False))
            for url in (outage_stack.api_url, outage_stack.sandbox_url)
        ]
        job = MainJob(client, browser)
        person = await job.sign_up(f"user{time.monotonic_ns()}@example.com")
        await job.connect(person, PROVIDER)
        yield Outage(outage_stack, job, person)


async def test_postgres_away_is_503_until_it_is_back_without_a_restart(outage: Outage) -> None:
    web = outage.stack.process("web").pid
    before = [response.status_code for response in await outage.everything()]

    with outage.without("postgres"):
        during = await outage.everything()
        health, ready = await outage.client.get("/health"), await outage.client.get("/ready")
    after = [response.status_code for response in await outage.everything()]

    assert before == after == [200, 201, 200, 200, 404]
    for response in during:
        assert_problem(response, 503, "database_unavailable")
    assert health.status_code == 200
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert (await outage.client.get("/ready")).json() == {"status": "ready", "database": "ok", "redis": "ok"}
    assert outage.stack.process("web").pid == web


async def test_postgres_away_does_not_let_a_stranger_learn_more(outage: Outage) -> None:
    with outage.without("postgres"):
        no_credential = await outage.client.get("/users/me")
        no_key = await outage.job.get_token({}, outage.person.id, PROVIDER)
        no_signature = await outage.client.post("/webhooks/clerk", content=b"{}")

    assert_problem(no_credential, 401, "unauthenticated")
    assert_problem(no_key, 401, "unauthenticated")
    assert_problem(no_signature, 400, "invalid_webhook_headers")


async def test_valkey_away_hinders_nobody(outage: Outage) -> None:
    with outage.without("valkey"):
        during = [response.status_code for response in await outage.everything()]
        health, ready = await outage.client.get("/health"), await outage.client.get("/ready")

    assert during == [200, 201, 200, 200, 404]
    assert health.status_code == 200
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "database": "ok", "redis": "degraded"})
    assert (await outage.client.get("/ready")).json()["redis"] == "ok"


async def test_valkey_that_accepts_and_never_answers_hinders_nobody(outage: Outage) -> None:
    valkey = outage.stack.valkey.pid
    os.kill(valkey, signal.SIGSTOP)
    try:
        during = [response.status_code for response in await outage.everything()]
        started = time.monotonic()
        ready = await outage.client.get("/ready")
        seconds = time.monotonic() - started
    finally:
        os.kill(valkey, signal.SIGCONT)

    assert during == [200, 201, 200, 200, 404]
    assert (ready.status_code, ready.json()["redis"]) == (200, "degraded")
    assert seconds < 4, "redis-py's own patience with a silent server would be over 4 s"


async def test_provider_away_costs_only_those_who_need_it(outage: Outage) -> None:
    # This comes last: a sandbox that was killed has forgotten its keys and the consents.
    session = await outage.job.session(outage.person.id)
    fresh = await outage.token()
    await outage.run_out()

    with outage.without("sandbox"):
        profile = await outage.client.get("/users/me", headers=session)
        token = await outage.token()

    assert fresh.status_code == profile.status_code == 200
    assert_problem(token, 503, "provider_unavailable")
