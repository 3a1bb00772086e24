"""Tests that a fault affects only its integration, provider, job or process: a damaged token, a missing key, a long
outage, an unusable answer, a slow job, busy pools."""

import asyncio
from typing import Any

import pytest

from services.sandbox.faults import Fault
from services.user_management.container import Container
from services.user_management.core.principal import Principal
from services.user_management.enums import JobName
from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem

pytestmark = pytest.mark.slow

VERSION_NOBODY_HOLDS = """
INSERT INTO encryption_keys (version, state, kdf, canary, created_at) VALUES (3, 'decrypt_only', 'x', '', now())
"""


async def test_grant_limited_to_scopes_gives_nothing_to_a_caller_who_names_none(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada, scopes=("calendar.read",))
    key = await journey.service_key(scopes=["mail.read"])

    answers = [
        await journey.get_token(key, ada.id),
        await journey.get_token(key, ada.id, scopes=[]),
        await journey.get_token(key, ada.id, scopes=["calendar.read"]),
        await journey.get_token(key, ada.id, scopes=["mail.read", "calendar.read"]),
    ]

    for answer in answers:
        assert_problem(answer, 403, "grant_denied")


def _damaged(ciphertext: bytes) -> bytes:
    return ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])


async def test_one_damaged_token_costs_its_connection_however_many_ask(journey: Journey) -> None:
    ada = await Connected.at(journey)
    bob = await Connected.at(journey, email="bob@example.com", key=ada.key)
    await ada.store("access", _damaged(await ada.ciphertext("access")))

    asked = await asyncio.gather(*(ada.get() for _ in range(40)))
    await bob.store("access", _damaged(await bob.ciphertext("access")))
    other = await bob.get()

    assert {answer.status_code for answer in asked} == {409}
    assert_problem(other, 409, "needs_reauth")


async def test_connections_under_a_missing_key_do_not_hold_up_the_jobs(journey: Journey, container: Container) -> None:
    people = [await Connected.at(journey)]
    for name in ("bob", "cleo", "dan"):
        people.append(await Connected.at(journey, email=f"{name}@example.com", key=people[0].key))
    await journey.owner.execute(VERSION_NOBODY_HOLDS)
    await journey.age_tokens()
    for lost in people[:3]:
        await journey.owner.execute(
            "UPDATE encrypted_tokens SET key_version = 3, expires_at = now() - interval '1 day'"
            " WHERE integration_id = $1",
            lost.integration_id,
        )

    left = await container.tokens.refresh_jobs.refresh_due(TESTER)
    await container.tokens.refresh_jobs.sweep(TESTER)

    assert left is None
    versions = [(await person.row())["token_version"] for person in people]
    assert versions == [1, 1, 1, 2]
    assert [(await person.row())["status"] for person in people] == ["active"] * 4


async def test_long_outage_does_not_overflow_the_backoff(connected: Connected) -> None:
    await connected.set("refresh_failures", 5000)
    await connected.journey.age_tokens()
    connected.fail("status", status=503)

    answer = await connected.get()

    assert_problem(answer, 503, "provider_unavailable")
    assert 1 <= int(answer.headers["Retry-After"]) <= 450


async def test_missing_key_is_not_counted_as_the_providers_failure(connected: Connected) -> None:
    await connected.journey.age_tokens()
    await connected.journey.owner.execute(VERSION_NOBODY_HOLDS)
    await connected.journey.owner.execute("UPDATE encrypted_tokens SET key_version = 3 WHERE kind = 'refresh'")

    answers = [await connected.get() for _ in range(5)]

    for answer in answers:
        assert_problem(answer, 503, "key_unavailable")
    row = await connected.row()
    assert (row["refresh_failures"], row["status"]) == (0, "active")


async def test_reconnecting_without_a_refresh_token_does_not_keep_a_refused_one(connected: Connected) -> None:
    journey = connected.journey
    await journey.age_tokens()
    connected.fail("error", error="invalid_grant")
    assert_problem(await connected.get(), 409, "needs_reauth")
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.exchange", action="no_refresh_token"))

    again = await journey.connect(connected.person)

    assert (again["status"], again["status_reason"]) == ("degraded", "no_refresh_token")
    assert await journey.owner.fetchval("SELECT count(*) FROM encrypted_tokens WHERE kind = 'refresh'") == 0


@pytest.mark.parametrize("account", ["x" * 256, True, "", 1.5, None])
async def test_account_id_that_cannot_be_one_is_refused(journey: Journey, account: Any) -> None:
    ada = await journey.sign_up()
    fault = Fault(party="oidc:static", operation="userinfo", action="status", status=200, body={"sub": account})
    journey.sandbox.faults.add(fault)
    started = await journey.authorize(ada)
    await journey.callback(await journey.consent(started["authorization_url"], account=ada.email))

    answer = await journey.confirm(ada, "sandbox-static", flow=journey.ticket(started))

    assert_problem(answer, 502, "provider_answer_invalid")
    assert await journey.owner.fetchval("SELECT count(*) FROM integrations") == 0


async def test_user_with_an_endless_address_is_a_user_without_one(journey: Journey) -> None:
    user = journey.sandbox.clerk.create_user(email="a" * 5000 + "@example.com")

    answer = await journey.webhook("user.created", user)

    assert answer.status_code == 200
    assert await journey.owner.fetchval("SELECT email FROM users WHERE id = $1", user["id"]) is None


async def test_markup_in_a_providers_error_is_not_told_on(connected: Connected) -> None:
    for _ in range(3):
        await connected.journey.age_tokens()
        await connected.set("refresh_not_before", None)
        connected.fail("status", status=503, body={"error": "<img src=x onerror=alert(1)>"})
        await connected.get()

    row = await connected.row()

    assert (row["status"], row["status_reason"], row["last_failure"]) == ("degraded", "unknown_error", "unknown_error")


@pytest.mark.usefixtures("clean_database")
async def test_slow_run_of_a_job_is_not_overtaken_by_the_next_slot(container: Container) -> None:
    running = 0
    most = 0

    async def work(_actor: Principal, _cursor: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.5)
        running -= 1

    async def tick() -> None:
        await container.jobs.runner.run(JobName.RELAY_OUTBOX, period_seconds=0.1, work=work)

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(tick())
            await asyncio.sleep(0.1)

    assert most == 1


async def test_process_whose_pools_are_busy_is_still_ready(journey: Journey, container: Container) -> None:
    door = container.resources.database.door
    held = [await door.acquire() for _ in range(door.get_max_size())]

    answer = await journey.client.get("/ready")

    for connection in held:
        await door.release(connection)
    assert answer.status_code == 200
