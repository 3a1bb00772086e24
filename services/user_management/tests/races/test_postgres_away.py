"""Postgres dies while the provider is answering: the answer may hold the only refresh token that still works."""

import asyncio

import pytest

from services.devstack.main_job import expect
from services.user_management.tests.races.conftest import Fleet, until
from services.user_management.tests.races.test_refresh_races import refreshes_committed

pytestmark = pytest.mark.serial


async def test_answer_that_arrives_while_postgres_is_away_is_stored_when_it_is_back(fleet: Fleet) -> None:
    job = fleet.jobs[0]
    ada = await job.sign_up("ada-postgres@example.com")
    integration = await job.connect(ada, "sandbox-strict")
    await fleet.run_out(ada.id)
    slow = {
        "party": "oidc:strict",
        "operation": "token.refresh",
        "action": "delay",
        "delay_seconds": 1,
        "when": "after",
    }
    expect(await job.browser.post("/_faults", json=slow), 201)
    asked = asyncio.create_task(job.get_token(fleet.key, ada.id, "sandbox-strict"))
    await until(lambda: refreshes_committed(fleet, "strict", at_least=1))

    await asyncio.to_thread(fleet.stack.kill, "postgres")
    during = await job.get_token(fleet.key, ada.id, "sandbox-strict")
    alive = await job.client.get("/health")
    ready = await job.client.get("/ready")
    await asyncio.sleep(1.5)
    await asyncio.to_thread(fleet.stack.start_process, "postgres")
    answer = await asked
    again = await job.get_token(fleet.key, ada.id, "sandbox-strict")

    assert during.status_code == 503
    assert int(during.headers["Retry-After"]) >= 1
    assert (alive.status_code, ready.status_code) == (200, 503)
    assert answer.status_code == again.status_code == 200, answer.text
    assert again.json()["refreshed"] is False
    refreshes = await job.ledger("oidc:strict", "token.refresh")
    assert [refresh["account"] for refresh in refreshes] == [integration["provider_account_id"]]
    assert (await job.userinfo(again.json()["access_token"], "strict")).status_code == 200
