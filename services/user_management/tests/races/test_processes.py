"""Tests of processes: the worker relays an event, and an API that gets SIGTERM ends in good order."""

import asyncio
import signal

import httpx
import pytest
from redis.asyncio import Redis

from services.devstack.main_job import expect
from services.user_management.tests.races.conftest import Fleet, until

pytestmark = pytest.mark.serial


async def test_worker_relays_an_event_to_the_stream_within_seconds(fleet: Fleet) -> None:
    redis = Redis.from_url(fleet.stack.valkey.url(), decode_responses=True)
    ada = await fleet.jobs[0].sign_up("ada-stream@example.com")

    async def is_told() -> bool:
        entries = await redis.xrange("user-management.events") or []
        return any(fields and fields.get("subject") == ada.id for _, fields in entries)

    await until(is_told, seconds=15)
    await redis.aclose()


async def test_sigterm_turns_ready_off_first_and_lets_the_refresh_under_way_finish(fleet: Fleet) -> None:
    first, second = fleet.jobs
    ada = await first.sign_up("ada-drain@example.com")
    await first.connect(ada, "sandbox-strict")
    slow = {"party": "oidc:strict", "operation": "token.refresh", "action": "delay", "delay_seconds": 2.5}
    expect(await first.browser.post("/_faults", json=slow), 201)
    await fleet.run_out(ada.id)
    call = asyncio.create_task(first.get_token(fleet.key, ada.id, "sandbox-strict"))

    async def is_at_the_provider() -> bool:
        return len(await first.ledger("oidc:strict", "token.refresh")) == 1

    await until(is_at_the_provider)
    stopping = asyncio.create_task(asyncio.to_thread(fleet.stack.kill, "web", signal.SIGTERM))
    statuses = []
    for _ in range(20):
        try:
            statuses.append((await first.client.get("/ready")).status_code)
        except httpx.TransportError:
            break
        await asyncio.sleep(0.1)
    answer = await call
    await stopping
    await asyncio.to_thread(fleet.stack.start_process, "web")

    assert 503 in statuses
    assert answer.status_code == 200, answer.text
    assert (await first.userinfo(answer.json()["access_token"], "strict")).status_code == 200
    assert (await second.get_token(fleet.key, ada.id, "sandbox-strict")).json()["refreshed"] is False


async def test_process_that_stops_starts_no_call_it_could_not_finish(fleet: Fleet) -> None:
    first, second = fleet.jobs
    ada = await first.sign_up("ada-late@example.com")
    await first.connect(ada, "sandbox-strict")
    await fleet.run_out(ada.id)
    stopping = asyncio.create_task(asyncio.to_thread(fleet.stack.kill, "web", signal.SIGTERM))

    async def is_draining() -> bool:
        return (await first.client.get("/ready")).status_code == 503

    await until(is_draining, seconds=5)
    late = await first.get_token(fleet.key, ada.id, "sandbox-strict")
    calls = len(await first.ledger("oidc:strict", "token.refresh"))
    elsewhere = await second.get_token(fleet.key, ada.id, "sandbox-strict")
    await stopping
    await asyncio.to_thread(fleet.stack.start_process, "web")

    assert (late.status_code, late.json()["type"]) == (503, "provider_unavailable")
    assert int(late.headers["Retry-After"]) >= 1
    assert calls == 0
    assert elsewhere.status_code == 200, elsewhere.text
    assert (await first.userinfo(elsewhere.json()["access_token"], "strict")).status_code == 200
