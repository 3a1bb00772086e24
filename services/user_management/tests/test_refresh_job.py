"""Tests of the jobs that renew tokens before anybody needs them: which are due, in which order, how often, and where
the next slice goes on."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from services.sandbox.faults import Fault
from services.user_management.celery_config import TICKS
from services.user_management.enums import JobName
from services.user_management.integrations.provider_gate import FAILURES
from services.user_management.queries import due_refresh as queries
from services.user_management.queries.due_refresh import DueStep
from services.user_management.services.token_service import REFRESH_PERIOD_SECONDS
from services.user_management.services.token_service import jobs as jobs_module
from services.user_management.services.token_service.answers import DEFAULT_TTL_SECONDS
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    connect_account,
    due_connections,
    refresh_jobs,
    refresher_elsewhere,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

pytestmark = pytest.mark.slow

HOUR = 3600.0
SPREAD = 600.0
AGED = """
UPDATE encrypted_tokens
SET issued_at = now() - make_interval(secs => $1), expires_at = now() + make_interval(secs => $2)
WHERE kind = 'access'
"""


@pytest.fixture
async def stale(connected: Connected) -> Connected:
    """Give an integration whose access token has expired."""
    await connected.journey.age_tokens()
    return connected


async def _refreshed(journey: Journey) -> set[UUID]:
    rows = await journey.owner.fetch("SELECT id FROM integrations WHERE last_refresh_at IS NOT NULL")
    return {row["id"] for row in rows}


async def test_job_renews_its_share_of_a_slice_the_next_to_run_out_first(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 7)
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher, spread_seconds=30)
    seen = []
    cursor: Any = None

    for _ in range(10):
        cursor = await jobs.refresh_due(TESTER, cursor)
        seen.append(await _refreshed(journey))
        if cursor is None:
            break

    # Seven tokens over 30 s, three slices, are three for each slice; since they are taken in twos, a slice renews four.
    assert seen == [set(ids[:4]), set(ids), *[set(ids)] * (len(seen) - 2)]
    assert cursor is None
    assert journey.sandbox.ledger.count("oidc:static", "token.refresh") == 7


async def test_job_without_a_spread_renews_all_that_is_due(journey: Journey) -> None:
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 5)
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher)

    assert await jobs.refresh_due(TESTER) is None

    assert await _refreshed(journey) == set(ids)


async def test_two_jobs_that_found_the_same_ask_once_for_each_connection(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-strict", 12)
    here = refresh_jobs(journey.container, journey.container.tokens.refresher)
    there = refresh_jobs(journey.container, refresher_elsewhere(journey.container))
    find, both_found = queries.due, asyncio.Barrier(2)

    async def find_together(*arguments: Any, **options: Any) -> list[DueStep]:
        found = await find(*arguments, **options)
        if found:
            async with asyncio.timeout(10):
                await both_found.wait()
        return found

    monkeypatch.setattr(queries, "due", find_together)
    journey.sandbox.faults.add(
        Fault(party="oidc:strict", operation="token.refresh", action="delay", delay_seconds=0.1, times=12)
    )

    await asyncio.gather(here.refresh_due(TESTER), there.refresh_due(TESTER))

    used = [entry.refresh_token for entry in journey.sandbox.ledger.entries("oidc:strict", "token.refresh")]
    rows = await journey.owner.fetch("SELECT status, token_version, refresh_attempts FROM integrations")
    assert len(used) == len(set(used)) == len(ids)
    assert {tuple(row) for row in rows} == {("active", 2, 0)}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE integrations SET status = 'needs_reauth', status_reason = 'grant_refused'",
        "UPDATE integrations SET status = 'disconnected', is_primary = false",
        "UPDATE integrations SET refresh_not_before = now() + interval '1 minute'",
        "UPDATE integrations SET refresh_lease_until = now() + interval '30 seconds'",
        "UPDATE users SET status = 'suspended'",
        "UPDATE users SET deleted_at = now()",
        "DELETE FROM encrypted_tokens WHERE kind = 'refresh'",
        "UPDATE encrypted_tokens SET expires_at = NULL",
        "UPDATE encrypted_tokens SET expires_at = now() + interval '2 hours'",
        "UPDATE encrypted_tokens SET issued_at = now()",
    ],
)
async def test_job_leaves_alone_what_is_not_due(stale: Connected, statement: str) -> None:
    await stale.journey.owner.execute(statement)
    jobs = refresh_jobs(stale.journey.container, stale.journey.container.tokens.refresher)

    assert await jobs.refresh_due(TESTER) is None

    assert stale.calls() == 0


async def test_connection_that_cannot_be_refreshed_does_not_hold_up_the_others(journey: Journey) -> None:
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 3)
    await journey.owner.execute(
        "UPDATE encrypted_tokens SET ciphertext = '\\x01' WHERE integration_id = $1 AND kind = 'refresh'", ids[0]
    )
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher)

    assert await jobs.refresh_due(TESTER) is None

    assert await _refreshed(journey) == set(ids[1:])


@pytest.mark.parametrize("issued_at", [0.0, SPREAD], ids=["at the start of a run", "at its end"])
async def test_token_of_an_hour_is_renewed_before_a_reader_finds_it_too_short_lived(
    connected: Connected, issued_at: float
) -> None:
    journey = connected.journey
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher, spread_seconds=SPREAD)
    age = -issued_at

    while not connected.calls() and age < HOUR:
        age += REFRESH_PERIOD_SECONDS
        await journey.owner.execute(AGED, age, HOUR - age)
        await jobs.refresh_due(TESTER)

    # A run may come to the token up to SPREAD seconds after its beginning.
    assert connected.calls() == 1
    assert HOUR - (age + SPREAD) >= DEFAULT_TTL_SECONDS


def test_slices_come_as_often_as_the_spread_reckons() -> None:
    assert TICKS[JobName.REFRESH_DUE_TOKENS] == jobs_module.SLICE_PERIOD_SECONDS


async def test_token_of_an_hour_is_not_renewed_by_the_run_after_its_renewal(connected: Connected) -> None:
    journey = connected.journey
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher, spread_seconds=SPREAD)
    await journey.owner.execute(AGED, REFRESH_PERIOD_SECONDS, HOUR - REFRESH_PERIOD_SECONDS)

    await jobs.refresh_due(TESTER)

    assert connected.calls() == 0


async def test_token_that_lives_shorter_than_a_run_is_renewed_once_in_it(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await due_connections(journey, await journey.sign_up(), "sandbox-static", 3)
    journey.sandbox.providers["static"].settings.access_token_lifetime_seconds = 60
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher, spread_seconds=SPREAD)
    # A period that began long ago, so that no other begins while this test runs.
    monkeypatch.setattr(jobs_module, "REFRESH_PERIOD_SECONDS", 40 * 365 * 86_400.0)
    await journey.owner.execute("UPDATE encrypted_tokens SET issued_at = '2000-01-01'")

    try:
        await jobs.refresh_due(TESTER)
        await jobs.refresh_due(TESTER)
    finally:
        journey.sandbox.providers["static"].settings.access_token_lifetime_seconds = 3600

    assert journey.sandbox.ledger.count("oidc:static", "token.refresh") == 3


async def test_the_dead_and_the_suspended_at_the_head_do_not_stop_the_walk(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    suspended = await journey.sign_up("suspended@example.com")
    for number in range(3):
        await connect_account(journey, suspended, f"suspended-{number}@example.com", new_account=True)
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 8)
    await journey.owner.execute("UPDATE users SET status = 'suspended' WHERE id = $1", suspended.id)
    await journey.owner.execute(
        "UPDATE integrations SET status = 'needs_reauth', status_reason = 'grant_refused' WHERE id = ANY($1)", ids[:3]
    )
    await journey.owner.execute(
        "UPDATE encrypted_tokens SET ciphertext = '\\x01' WHERE integration_id = ANY($1) AND kind = 'refresh'", ids[3:6]
    )
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher)

    assert await jobs.refresh_due(TESTER) is None

    assert await _refreshed(journey) == set(ids[6:])


async def test_slice_that_ends_in_the_middle_goes_on_with_exactly_the_next_one(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "CONCURRENCY", 1)
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 7)
    enough = 0

    def has_enough() -> bool:
        return journey.sandbox.ledger.count("oidc:static", "token.refresh") >= enough

    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher, is_stopping=has_enough)
    seen: list[set[UUID]] = []
    cursor: Any = None

    for enough in (3, 4, 7):  # noqa: B007 - has_enough reads it
        cursor = json.loads(json.dumps(await jobs.refresh_due(TESTER, cursor)))
        seen.append(await _refreshed(journey))
    # This one is due again; the walk would find it only if it went back.
    await journey.owner.execute(
        "UPDATE encrypted_tokens SET issued_at = now() - interval '1 hour', expires_at = now() - interval '1 hour'"
        " WHERE integration_id = $1 AND kind = 'access'",
        ids[0],
    )
    enough = 100

    assert await jobs.refresh_due(TESTER, cursor) is None
    assert seen == [set(ids[:3]), set(ids[:4]), set(ids)]
    assert journey.sandbox.ledger.count("oidc:static", "token.refresh") == 7


async def test_slice_of_a_process_that_stops_at_once_goes_on_from_the_start(journey: Journey) -> None:
    ids = await due_connections(journey, await journey.sign_up(), "sandbox-static", 3)
    stopping = refresh_jobs(journey.container, journey.container.tokens.refresher, is_stopping=lambda: True)
    jobs = refresh_jobs(journey.container, journey.container.tokens.refresher)

    cursor = json.loads(json.dumps(await stopping.refresh_due(TESTER)))
    untouched = await _refreshed(journey)

    assert await jobs.refresh_due(TESTER, cursor) is None
    assert (untouched, await _refreshed(journey)) == (set(), set(ids))


async def test_sweep_comes_to_those_behind_a_provider_that_is_held_back(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    ada = await journey.sign_up()
    held_back = await due_connections(journey, ada, "sandbox-static", FAILURES)
    behind = await due_connections(journey, ada, "sandbox-strict", 1)
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.refresh", action="status", times=FAILURES))
    for integration_id in held_back:
        await journey.container.tokens.refresher.refresh(integration_id, 1)
    await journey.owner.execute("UPDATE integrations SET refresh_attempts = 1, refresh_not_before = NULL")

    await journey.container.tokens.refresh_jobs.sweep(TESTER)

    assert sorted(held_back + behind) == held_back + behind
    assert await _refreshed(journey) == set(behind)
