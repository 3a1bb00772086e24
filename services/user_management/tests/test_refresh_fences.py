"""Tests of what guards a refresh against what happens meanwhile: a reconnect, a user's suspension, another process with
the lease, a failing database, a process that stops. Each test fails when its guard is taken out.

In most, the provider holds back its answer to a refresh, and meanwhile the test tries what must not succeed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.sandbox.faults import FaultAction
from services.user_management.container import Container
from services.user_management.core.clock import Clock
from services.user_management.core.principal import Principal
from services.user_management.enums import ReauthReason
from services.user_management.integrations.oauth_client import CALL_TIMEOUT_SECONDS, OAuthClient
from services.user_management.queries import token_refresh as queries
from services.user_management.queries.token_refresh import LEASE_SECONDS, SHORT_LEASE_SECONDS, Claim
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.token_service import RefreshAttempts, RefreshOutcome, TokenRefresher
from services.user_management.services.token_service import refresh as refresh_module
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.integration_scenes import refresher_elsewhere
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory, unit_of_work_factory

HELD_SECONDS = 600.0
"""A delay that ends no sooner than with `sandbox.faults.clear()`."""


@pytest.fixture
async def strict(journey: Journey) -> AsyncIterator[Connected]:
    """Make an integration whose provider accepts each refresh token once, and whose access token has expired."""
    scene = await Connected.at(journey, "sandbox-strict")
    await journey.age_tokens()
    yield scene
    journey.sandbox.faults.clear()
    await journey.container.tokens.refresher.drain(5)


async def _hold_refresh(
    scene: Connected, action: FaultAction = "delay", **fault: Any
) -> "asyncio.Task[httpx.Response]":
    """Start a read whose refresh has reached the provider (with `when="after"`: was carried out there) and gets no
    answer until the faults are cleared."""
    scene.fail(action, delay_seconds=HELD_SECONDS, **fault)
    reader = asyncio.create_task(scene.get())
    committed = {"committed": True} if fault.get("when") == "after" else {}
    await scene.journey.sandbox.ledger.wait_for(scene.party, "token.refresh", **committed)
    return reader


async def _ciphertexts(scene: Connected) -> tuple[bytes, bytes]:
    return await scene.ciphertext("access"), await scene.ciphertext("refresh")


def _refresher(container: Container, clock: Clock, unit_of_work: UnitOfWorkFactory) -> TokenRefresher:
    """Make a refresher as the container does, with a clock and a unit of work of the test's own."""
    oauth = OAuthClient(container.resources.http, clock)
    return TokenRefresher(
        database=container.resources.database,
        unit_of_work=unit_of_work,
        providers=container.resources.providers,
        attempts=RefreshAttempts(
            unit_of_work=unit_of_work,
            providers=container.resources.providers,
            oauth=oauth,
            vault=container.keys.vault,
            status=IntegrationStatusTracker(),
            clock=clock,
        ),
        gate=oauth.gate,
        clock=clock,
        is_stopping=lambda: False,
    )


async def test_answer_after_a_reconnect_is_discarded(strict: Connected) -> None:
    reader = await _hold_refresh(strict, when="after")
    await strict.journey.connect(strict.person, strict.provider)
    of_reconnect = await _ciphertexts(strict)

    strict.journey.sandbox.faults.clear()
    response = await reader

    assert response.status_code == 200, response.text
    assert (await strict.row())["token_version"] == 2
    assert await _ciphertexts(strict) == of_reconnect
    assert (await strict.journey.userinfo(response.json()["access_token"], "strict")).status_code == 200


async def test_claim_of_a_replaced_version_calls_nobody(strict: Connected) -> None:
    refreshed = await strict.get()

    late = await strict.journey.container.tokens.refresher.refresh(UUID(strict.integration_id), 1)

    assert refreshed.json()["refreshed"] is True
    assert late.outcome is RefreshOutcome.REFRESHED
    assert strict.calls() == 1
    assert (await strict.row())["token_version"] == 2


@pytest.mark.parametrize("change", ["status = 'suspended'", "deleted_at = now()"])
async def test_claim_for_a_user_who_is_not_served_calls_nobody(strict: Connected, change: str) -> None:
    statement = f"UPDATE users SET {change} WHERE id = $1"  # noqa: S608 - our own column names
    await strict.journey.owner.execute(statement, strict.user_id)

    result = await strict.journey.container.tokens.refresher.refresh(UUID(strict.integration_id), 1)

    assert result.outcome is RefreshOutcome.REFUSED
    assert strict.calls() == 0


async def test_refusal_after_a_reconnect_leaves_the_connection_active(strict: Connected) -> None:
    reader = await _hold_refresh(strict, "error", error="invalid_grant")
    await strict.journey.connect(strict.person, strict.provider)

    strict.journey.sandbox.faults.clear()
    response = await reader

    assert response.status_code == 200, response.text
    row = await strict.row()
    assert (row["token_version"], row["status"], row["status_reason"]) == (2, "active", None)


@pytest.mark.parametrize(
    ("provider", "seconds"),
    [("sandbox-strict", LEASE_SECONDS - CALL_TIMEOUT_SECONDS + 1), ("sandbox-static", SHORT_LEASE_SECONDS + 1)],
)
async def test_claim_that_took_most_of_the_lease_calls_nobody(journey: Journey, provider: str, seconds: float) -> None:
    scene = await Connected.at(journey, provider)
    await journey.age_tokens()
    container, clock = journey.container, SetClock(time.time())

    @asynccontextmanager
    async def slow_unit_of_work(actor: Principal) -> AsyncIterator[UnitOfWork]:
        async with container.resources.unit_of_work(actor) as uow:
            yield uow
        clock.seconds += seconds

    refresher = _refresher(container, clock, slow_unit_of_work)

    result = await refresher.refresh(UUID(scene.integration_id), 1)

    assert result.outcome is RefreshOutcome.UNAVAILABLE
    assert scene.calls() == 0
    row = await scene.row()
    assert (row["refresh_lease_owner"], row["refresh_attempts"]) == (None, 0)


async def test_holder_whose_short_lease_another_has_taken_does_not_renew_it(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_module, "RENEWAL_SECONDS", 0.02)
    renew, renewed = queries.renew, asyncio.Event()

    async def counted_renew(*arguments: Any) -> None:
        await renew(*arguments)
        renewed.set()

    monkeypatch.setattr(queries, "renew", counted_renew)
    await connected.journey.age_tokens()
    reader = await _hold_refresh(connected, when="after")
    async with connected.journey.container.resources.unit_of_work(TESTER) as uow:
        await uow.connection.execute(sa.text("UPDATE integrations SET refresh_lease_until = now() - interval '1 s'"))
        await queries.claim(uow.connection, integration_id=UUID(connected.integration_id), token_version=1)
    before = await connected.row()

    async with asyncio.timeout(10):
        for _ in range(2):  # the first may have begun before the other claimed
            renewed.clear()
            await renewed.wait()

    assert await connected.row() == before
    connected.journey.sandbox.faults.clear()
    assert (await reader).status_code == 200


async def test_refresh_goes_on_when_postgres_does_not_renew_its_lease(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_module, "RENEWAL_SECONDS", 0.02)
    refused = asyncio.Event()

    async def refused_renew(connection: AsyncConnection, _held: Claim) -> None:
        refused.set()
        await connection.execute(sa.text("SET LOCAL statement_timeout = 1"))
        await connection.execute(sa.text("SELECT pg_sleep(1)"))

    monkeypatch.setattr(queries, "renew", refused_renew)
    await connected.journey.age_tokens()
    reader = await _hold_refresh(connected, when="after")

    async with asyncio.timeout(10):
        await refused.wait()
    connected.journey.sandbox.faults.clear()
    response = await reader

    assert response.status_code == 200, response.text
    assert (await connected.row())["token_version"] == 2
    assert connected.calls() == 1


async def _never_ends(*_arguments: object) -> None:
    await asyncio.Event().wait()


async def _fails_unexpectedly(*_arguments: object) -> None:
    raise RuntimeError("nobody expects this")


@pytest.mark.parametrize("renewal", [_never_ends, _fails_unexpectedly])
async def test_refresh_ends_with_its_answer_whatever_becomes_of_the_renewal(
    connected: Connected, monkeypatch: pytest.MonkeyPatch, renewal: Callable[..., Awaitable[None]]
) -> None:
    monkeypatch.setattr(refresh_module, "RENEWAL_SECONDS", 0.02)
    begun = asyncio.Event()

    async def renew(*_arguments: object) -> None:
        begun.set()
        await renewal()

    monkeypatch.setattr(queries, "renew", renew)
    await connected.journey.age_tokens()
    reader = await _hold_refresh(connected, when="after")

    async with asyncio.timeout(30):
        await begun.wait()
        connected.journey.sandbox.faults.clear()
        response = await reader

    assert response.status_code == 200, response.text
    assert (await connected.row())["token_version"] == 2
    assert connected.calls() == 1


async def test_life_of_a_token_counts_from_sending(strict: Connected) -> None:
    container, clock, on_the_way = strict.journey.container, SetClock(time.time()), 5.0
    refresher = _refresher(container, clock, unit_of_work_factory(clock))
    strict.fail("delay", delay_seconds=HELD_SECONDS, when="after")
    caller = asyncio.create_task(refresher.refresh(UUID(strict.integration_id), 1))
    await strict.journey.sandbox.ledger.wait_for(strict.party, "token.refresh", committed=True)

    clock.seconds += on_the_way
    strict.journey.sandbox.faults.clear()
    result = await caller

    assert result.outcome is RefreshOutcome.REFRESHED
    life = await strict.journey.owner.fetchval(
        "SELECT extract(epoch FROM expires_at - issued_at)::float8 FROM encrypted_tokens WHERE kind = 'access'"
    )
    issued_life = strict.journey.sandbox.providers["strict"].settings.access_token_lifetime_seconds
    assert life == pytest.approx(issued_life - on_the_way)


async def test_failure_after_the_lease_ran_out_leaves_the_next_owner_alone(strict: Connected) -> None:
    reader = await _hold_refresh(strict, "status", status=500)
    await strict.journey.owner.execute("UPDATE integrations SET refresh_lease_until = now() - interval '1 second'")
    async with strict.journey.container.resources.unit_of_work(TESTER) as uow:
        integration_id = UUID(strict.integration_id)
        next_claim = await queries.claim(uow.connection, integration_id=integration_id, token_version=1)
    before = await strict.row()

    strict.journey.sandbox.faults.clear()
    response = await reader

    assert response.status_code == 503, response.text
    assert next_claim is not None
    assert before["refresh_lease_owner"] == next_claim.owner
    assert await strict.row() == before


@pytest.mark.parametrize("taken", ["over", "to_have_died"])
async def test_answer_of_a_strict_provider_after_another_took_over_brings_nothing_back(
    strict: Connected, taken: str
) -> None:
    reader = await _hold_refresh(strict, when="after")
    await strict.journey.owner.execute("UPDATE integrations SET refresh_lease_until = now() - interval '1 second'")
    async with strict.journey.container.resources.unit_of_work(TESTER) as uow:
        await queries.claim(uow.connection, integration_id=UUID(strict.integration_id), token_version=1)
        if taken == "to_have_died":
            integration = IntegrationVersion(UUID(strict.integration_id), 1)
            reason = ReauthReason.REFRESH_INTERRUPTED
            await IntegrationStatusTracker().mark_needs_reauth(uow, integration, reason)
    before, stored = await strict.row(), await _ciphertexts(strict)

    strict.journey.sandbox.faults.clear()
    await strict.journey.container.tokens.refresher.drain(5)
    reader.cancel()

    assert await strict.row() == before
    assert await _ciphertexts(strict) == stored


async def test_answer_of_a_strict_provider_is_kept_although_the_status_changed_meanwhile(strict: Connected) -> None:
    reader = await _hold_refresh(strict, when="after")
    async with strict.journey.container.resources.unit_of_work(TESTER) as uow:
        integration = IntegrationVersion(UUID(strict.integration_id), 1)
        await IntegrationStatusTracker().mark_needs_reauth(uow, integration, ReauthReason.SCOPE_UPGRADE)

    strict.journey.sandbox.faults.clear()
    response = await reader

    row = await strict.row()
    assert response.status_code == 200, response.text
    assert (row["token_version"], row["status"]) == (2, "active")


async def test_answer_that_another_provider_would_still_honour_is_kept(connected: Connected) -> None:
    await connected.journey.age_tokens()
    reader = await _hold_refresh(connected, when="after")
    await connected.journey.owner.execute("UPDATE integrations SET refresh_lease_until = now() - interval '1 second'")
    async with connected.journey.container.resources.unit_of_work(TESTER) as uow:
        await queries.claim(uow.connection, integration_id=UUID(connected.integration_id), token_version=1)

    connected.journey.sandbox.faults.clear()
    response = await reader

    assert response.status_code == 200, response.text
    assert (await connected.row())["token_version"] == 2


async def test_answer_that_postgres_refuses_at_first_is_stored_all_the_same(strict: Connected) -> None:
    container, refusals = strict.journey.container, iter([False, True, True])

    @asynccontextmanager
    async def refusing_unit_of_work(actor: Principal) -> AsyncIterator[UnitOfWork]:
        async with container.resources.unit_of_work(actor) as uow:
            if next(refusals, False):
                await uow.connection.execute(sa.text("SET LOCAL statement_timeout = 1"))
                await uow.connection.execute(sa.text("SELECT pg_sleep(1)"))
            yield uow

    refresher = _refresher(container, container.resources.clock, refusing_unit_of_work)

    result = await refresher.refresh(UUID(strict.integration_id), 1)

    assert result.outcome is RefreshOutcome.REFRESHED
    assert next(refusals, None) is None
    assert (await strict.row())["token_version"] == 2
    assert (await strict.get()).status_code == 200
    assert strict.calls() == 1


async def test_process_that_is_to_stop_claims_nothing_and_sends_nothing(strict: Connected) -> None:
    refresher = refresher_elsewhere(strict.journey.container, is_stopping=lambda: True)
    before = await strict.row()

    result = await refresher.refresh(UUID(strict.integration_id), 1)

    assert result.outcome is RefreshOutcome.UNAVAILABLE
    assert strict.calls() == 0
    assert await strict.row() == before


async def test_process_told_to_stop_between_claim_and_call_gives_the_lease_back(strict: Connected) -> None:
    told = iter([False])  # asked before the claim, and again when it is the call's turn
    refresher = refresher_elsewhere(strict.journey.container, is_stopping=lambda: next(told, True))

    result = await refresher.refresh(UUID(strict.integration_id), 1)

    assert result.outcome is RefreshOutcome.UNAVAILABLE
    assert strict.calls() == 0
    row = await strict.row()
    assert (row["refresh_lease_owner"], row["refresh_attempts"], row["last_failure"]) == (None, 0, None)


async def test_caller_who_is_cancelled_does_not_cancel_the_flight(strict: Connected) -> None:
    reader = await _hold_refresh(strict, when="after")

    reader.cancel()
    await asyncio.wait([reader])
    strict.journey.sandbox.faults.clear()
    await strict.journey.container.tokens.refresher.drain(5)

    assert reader.cancelled()
    assert (await strict.row())["token_version"] == 2
    assert (await strict.get()).status_code == 200
    assert strict.calls() == 1


async def test_flight_does_not_join_the_transaction_of_its_caller(strict: Connected) -> None:
    container = strict.journey.container

    async with container.resources.unit_of_work(TESTER):
        result = await container.tokens.refresher.refresh(UUID(strict.integration_id), 1)
        seen_by_others = await strict.row()

    assert result.outcome is RefreshOutcome.REFRESHED
    assert seen_by_others["token_version"] == 2
