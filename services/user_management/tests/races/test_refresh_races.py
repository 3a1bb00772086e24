"""Tests that many callers of several processes cause one refresh, and of what follows when a process is slow or is
killed while it asks the provider."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from services.devstack.main_job import expect
from services.devstack.replicas import parallel_replicas
from services.user_management.core.failpoints import Failpoint
from services.user_management.queries.token_refresh import SHORT_LEASE_SECONDS
from services.user_management.services.token_service.refresh import RENEWAL_SECONDS
from services.user_management.tests.races.conftest import Fleet, until

pytestmark = pytest.mark.serial

KINDS = ("static", "overlap", "grace", "strict")


async def test_200_callers_of_two_processes_cause_one_refresh(fleet: Fleet) -> None:
    first, second = fleet.jobs
    ada = await first.sign_up("ada-race@example.com")
    await first.connect(ada, "sandbox-strict")
    slow = {"party": "oidc:strict", "operation": "token.refresh", "action": "delay", "delay_seconds": 0.3, "times": 99}
    expect(await first.browser.post("/_faults", json=slow), 201)
    await fleet.run_out(ada.id)

    answers = await asyncio.gather(
        *(job.get_token(fleet.key, ada.id, "sandbox-strict") for _ in range(100) for job in (first, second))
    )

    assert Counter(answer.status_code for answer in answers) == {200: 200}
    assert len({answer.json()["access_token"] for answer in answers}) == 1
    assert len(await first.ledger("oidc:strict", "token.refresh")) == 1
    assert (await first.userinfo(answers[0].json()["access_token"], "strict")).status_code == 200
    await fleet.run_out(ada.id)
    again = await second.get_token(fleet.key, ada.id, "sandbox-strict")
    assert again.status_code == 200, again.text
    assert (await first.userinfo(again.json()["access_token"], "strict")).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_one_refresh_per_expiry_when_processes_race_repeatedly(fleet: Fleet, kind: str) -> None:
    rounds = 10
    first, second = fleet.jobs
    ada = await first.sign_up(f"ada-rounds-{kind}@example.com")
    await first.connect(ada, f"sandbox-{kind}")

    for _ in range(rounds):
        await fleet.run_out(ada.id)
        answers = await asyncio.gather(
            *(job.get_token(fleet.key, ada.id, f"sandbox-{kind}") for _ in range(5) for job in (first, second))
        )
        assert {answer.status_code for answer in answers} == {200}

    assert len(await first.ledger(f"oidc:{kind}", "token.refresh")) == rounds


async def kill_while_refreshing(fleet: Fleet, *, kind: str, kills: int) -> list[str]:
    """Kill the first API `kills` times (SIGKILL) during a refresh that the provider has carried out but not yet
    answered, each time of a new user's integration. Then end the leases, and return the ids of the users."""
    first, _ = fleet.jobs
    users = []
    for number in range(kills):
        ada = await first.sign_up(f"ada-kill-{kind}-{number}@example.com")
        await first.connect(ada, f"sandbox-{kind}")
        users.append(ada.id)
    for number, user_id in enumerate(users):
        await fleet.run_out(user_id)
        hold = {
            "party": f"oidc:{kind}",
            "operation": "token.refresh",
            "action": "delay",
            "delay_seconds": 600,
            "when": "after",
        }
        expect(await first.browser.post("/_faults", json=hold), 201)
        call = asyncio.create_task(first.get_token(fleet.key, user_id, f"sandbox-{kind}"))
        await until(lambda: refreshes_committed(fleet, kind, at_least=number + 1))  # noqa: B023 - awaited here
        await asyncio.to_thread(fleet.stack.restart, "web")
        await asyncio.gather(call, return_exceptions=True)
        expect(await first.browser.delete("/_faults"), 204)
    await fleet.end_leases()
    return users


async def refreshes_committed(fleet: Fleet, kind: str, *, at_least: int) -> bool:
    entries = await fleet.jobs[0].ledger(f"oidc:{kind}", "token.refresh")
    return sum(bool(entry["committed"]) for entry in entries) >= at_least


async def eventually(fleet: Fleet, user_id: str, kind: str, *, seconds: float) -> int:
    """Return the status of a token read once it is no longer 503; 503 when `seconds` are over."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        answer = await fleet.jobs[1].get_token(fleet.key, user_id, f"sandbox-{kind}")
        if answer.status_code != 503 or asyncio.get_running_loop().time() > deadline:
            return answer.status_code
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("kind", ["static", "overlap", "grace"])
async def test_no_connection_is_lost_when_the_api_is_killed_during_the_call(fleet: Fleet, kind: str) -> None:
    users = await kill_while_refreshing(fleet, kind=kind, kills=2)

    statuses = [await eventually(fleet, user_id, kind, seconds=30) for user_id in users]

    assert statuses == [200, 200]


async def test_strict_connection_is_flagged_when_the_api_is_killed_during_the_call(fleet: Fleet) -> None:
    (user_id,) = await kill_while_refreshing(fleet, kind="strict", kills=1)

    status = await eventually(fleet, user_id, "strict", seconds=30)

    assert status == 409
    row = await fleet.database.fetchrow("SELECT status, status_reason FROM integrations WHERE user_id = $1", user_id)
    assert row is not None
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "refresh_interrupted")


async def test_sweeper_settles_a_killed_refresh_although_nobody_asks(fleet: Fleet) -> None:
    (user_id,) = await kill_while_refreshing(fleet, kind="static", kills=1)

    async def is_settled() -> bool:
        query = "SELECT refresh_attempts FROM integrations WHERE user_id = $1"
        return bool(await fleet.database.fetchval(query, user_id) == 0)

    await until(is_settled)

    assert await eventually(fleet, user_id, "static", seconds=1) == 200


async def status_after_a_kill(fleet: Fleet, folder: Path, kind: str) -> int:
    """Let another process be killed when it has sent its refresh request, ask for the same token at once, and return
    the status of the answer. Prints how many seconds the answer took."""
    job = fleet.jobs[1]
    provider = f"sandbox-{kind}"
    ada = await job.sign_up(f"ada-cut-off-{kind}@example.com")
    await job.connect(ada, provider)
    await fleet.run_out(ada.id)
    armed = {"ENVIRONMENT": "test", "FAILPOINT": f"{Failpoint.SENT}:kill"}
    async with (
        httpx.AsyncClient(timeout=30, trust_env=False) as client,
        parallel_replicas(fleet.stack, client, folder / "web.log", [armed]) as (replica,),
    ):
        with pytest.raises(httpx.TransportError):
            await client.post(
                f"{replica.url}/internal/tokens/get",
                headers=fleet.key,
                json={"user_id": ada.id, "provider": provider},
            )
        killed_at = time.monotonic()
        answer = await job.get_token(fleet.key, ada.id, provider)
        waited = time.monotonic() - killed_at
    print(f"{kind}: {answer.status_code} after {waited:.1f} s")  # noqa: T201 - the figure of ADR 37
    await fleet.end_leases()
    return answer.status_code


@pytest.mark.parametrize("kind", ["static", "overlap", "grace"])
async def test_caller_waits_out_a_killed_refresh_where_a_second_call_is_harmless(
    fleet: Fleet, tmp_path: Path, kind: str
) -> None:
    assert await status_after_a_kill(fleet, tmp_path, kind) == 200


async def test_caller_of_a_strict_provider_is_told_to_come_back_after_a_killed_refresh(
    fleet: Fleet, tmp_path: Path
) -> None:
    assert await status_after_a_kill(fleet, tmp_path, "strict") == 503


async def test_slow_call_of_a_process_that_lives_stays_the_only_one(fleet: Fleet) -> None:
    first, second = fleet.jobs
    ada = await first.sign_up("ada-slow@example.com")
    await first.connect(ada, "sandbox-static")
    longer = SHORT_LEASE_SECONDS + 2 * RENEWAL_SECONDS
    slow = {"party": "oidc:static", "operation": "token.refresh", "action": "delay", "delay_seconds": longer}
    expect(await first.browser.post("/_faults", json=slow), 201)
    await fleet.run_out(ada.id)

    answers = await asyncio.gather(*(job.get_token(fleet.key, ada.id, "sandbox-static") for job in fleet.jobs))

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(await second.ledger("oidc:static", "token.refresh")) == 1
