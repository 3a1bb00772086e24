"""Tests of the metrics about integrations: they count what is committed, by whichever process, and nothing else, and
their labels are bounded."""

import asyncio
import re

import pytest
from fastapi import FastAPI

from services.user_management.core.integration_counts import misconfigured, refresh, transition
from services.user_management.enums import IntegrationStatus, ReauthReason, RefreshEnd
from services.user_management.queries import integration_counter
from services.user_management.services.metrics_service import MetricsService
from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import refresher_elsewhere
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected
from services.user_management.unit_of_work import UnitOfWork

pytestmark = pytest.mark.slow

STATIC = "sandbox-static"
TRANSITIONS = "user_management_connection_transitions_total"
REFRESHES = "user_management_refreshes_total"
MISCONFIGURED = "user_management_provider_misconfigured_total"
CURRENT = "user_management_connection_counters_current"
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABELS = ("provider", "status", "outcome", "reason")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Parse metrics into a map from (name, values of the labels in `_LABELS`, in that order) to the value."""
    found = {}
    for line in text.splitlines():
        if (match := _SAMPLE.match(line)) is not None:
            labels = dict(_LABEL.findall(match[2] or ""))
            found[match[1], *(labels[name] for name in _LABELS if name in labels)] = float(match[3])
    return found


async def scrape(journey: Journey) -> dict[tuple[str, ...], float]:
    """Read `/metrics` and parse it."""
    response = await journey.client.get("/metrics")
    assert response.status_code == 200
    return samples(response.text)


async def refreshes_of(scene: Connected) -> dict[str, float]:
    """Return the number of refreshes at STATIC by outcome; outcomes that did not happen are left out."""
    found = await scrape(scene.journey)
    return {key[2]: value for key, value in found.items() if key[0] == REFRESHES and key[1] == STATIC and value}


class _ChangedMyMindError(Exception):
    """Raised in a transaction to undo what it has counted."""


async def _roll_back(journey: Journey) -> None:
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        uow.count(refresh(STATIC, RefreshEnd.REFRESHED))
        raise _ChangedMyMindError


async def _undo(uow: UnitOfWork) -> None:
    async with uow.savepoint():
        uow.count(refresh(STATIC, RefreshEnd.REFRESHED))
        raise _ChangedMyMindError


async def test_metrics_before_anything_has_happened_show_every_expected_series_as_zero(journey: Journey) -> None:
    found = await scrape(journey)

    assert found[TRANSITIONS, STATIC, "needs_reauth", "refresh_interrupted"] == 0
    assert found[REFRESHES, STATIC, "interrupted"] == 0
    assert found[MISCONFIGURED, STATIC] == 0
    assert found[(CURRENT,)] == 1


async def test_metrics_count_connecting_refreshing_and_disconnecting(connected: Connected) -> None:
    await connected.journey.age_tokens()
    await connected.get()
    await connected.journey.client.delete(f"/users/me/integrations/{STATIC}", headers=connected.headers)

    found = await scrape(connected.journey)

    assert found[TRANSITIONS, STATIC, "active", "none"] == 1
    assert found[TRANSITIONS, STATIC, "disconnected", "none"] == 1
    assert found[REFRESHES, STATIC, "refreshed"] == 1


async def test_metrics_count_a_user_who_is_needed_with_the_reason(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="invalid_grant")
    await connected.get()

    found = await scrape(connected.journey)

    assert found[TRANSITIONS, STATIC, "needs_reauth", "grant_refused"] == 1
    assert await refreshes_of(connected) == {"reauth": 1}


async def test_metrics_count_a_refusal_of_our_client_and_mark_nobody(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="invalid_client")
    await connected.get()

    found = await scrape(connected.journey)

    assert found[MISCONFIGURED, STATIC] == 1
    assert await refreshes_of(connected) == {"operator": 1}
    assert found[TRANSITIONS, STATIC, "needs_reauth", "grant_refused"] == 0


async def test_metrics_count_what_is_transient_and_what_nobody_knows_apart(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("status", status=500)
    await connected.get()
    await connected.set("refresh_not_before", None)
    connected.fail("error", error="who_knows")
    await connected.get()

    assert await refreshes_of(connected) == {"transient": 1, "unknown": 1}


async def test_metrics_cut_what_a_provider_says_to_other(connected: Connected) -> None:
    await connected.journey.age_tokens()
    for _ in range(3):
        await connected.set("refresh_not_before", None)
        connected.fail("error", error="who_knows")
        await connected.get()

    reasons = {key[3] for key in await scrape(connected.journey) if key[0] == TRANSITIONS}

    assert (await scrape(connected.journey))[TRANSITIONS, STATIC, "degraded", "other"] == 1
    assert reasons == {*ReauthReason, "other", "none"}


async def test_metrics_of_the_api_show_what_another_process_has_committed(connected: Connected) -> None:
    elsewhere = refresher_elsewhere(connected.journey.container)
    row = await connected.row()

    await elsewhere.refresh(row["id"], row["token_version"])

    assert await refreshes_of(connected) == {"refreshed": 1}


async def test_metrics_leave_out_what_was_rolled_back(journey: Journey) -> None:
    with pytest.raises(_ChangedMyMindError):
        await _roll_back(journey)

    assert (await scrape(journey))[REFRESHES, STATIC, "refreshed"] == 0


async def test_metrics_leave_out_what_a_savepoint_has_undone_and_count_the_rest(journey: Journey) -> None:
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        uow.count(transition(STATIC, IntegrationStatus.REVOKED, ReauthReason.REVOKED_AT_PROVIDER))
        with pytest.raises(_ChangedMyMindError):
            await _undo(uow)

    found = await scrape(journey)

    assert found[REFRESHES, STATIC, "refreshed"] == 0
    assert found[TRANSITIONS, STATIC, "revoked", "revoked_at_provider"] == 1


async def test_metrics_counted_by_many_transactions_at_once_lose_none(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One row for all, so that each of them has to wait for the others.
    monkeypatch.setattr(integration_counter, "SHARDS", 1)
    counts = [refresh(STATIC, RefreshEnd.REFRESHED), refresh(STATIC, RefreshEnd.TRANSIENT), misconfigured(STATIC)]

    async def count(order: int) -> None:
        async with journey.container.resources.unit_of_work(TESTER) as uow:
            for counted in counts[::order]:
                uow.count(counted)

    await asyncio.gather(*(count(order) for order in (1, -1) * 20))

    found = await scrape(journey)
    assert found[REFRESHES, STATIC, "refreshed"] == found[REFRESHES, STATIC, "transient"] == 40
    assert found[MISCONFIGURED, STATIC] == 40


async def test_metrics_while_postgres_does_not_answer_are_those_that_were_last_read(connected: Connected) -> None:
    before = await scrape(connected.journey)

    async with connected.journey.owner.transaction():
        await connected.journey.owner.execute("LOCK TABLE connection_counters")
        during = await scrape(connected.journey)

    assert (before[(CURRENT,)], during[(CURRENT,)]) == (1, 0)
    assert during[TRANSITIONS, STATIC, "active", "none"] == before[TRANSITIONS, STATIC, "active", "none"] == 1
    assert (await scrape(connected.journey))[(CURRENT,)] == 1


async def test_metrics_that_were_never_read_are_absent_rather_than_zero(journey: Journey) -> None:
    metrics = MetricsService(journey.container.resources.database, journey.container.resources.providers)

    async with journey.owner.transaction():
        await journey.owner.execute("LOCK TABLE connection_counters")
        found = samples((await metrics.exposition()).decode())

    assert found[(CURRENT,)] == 0
    assert {key[0] for key in found}.isdisjoint({TRANSITIONS, REFRESHES, MISCONFIGURED})


def test_metrics_refuse_nobody_while_postgres_is_away_nor_say_so(app: FastAPI) -> None:
    assert "503" not in app.openapi()["paths"]["/metrics"]["get"]["responses"]
