"""Tests of the periodic check of integrations: which of them it asks the provider about, and that it distinguishes a
dead token, a provider that is down and a refusal of our client."""

from functools import partial
from typing import Any

import pytest

from services.sandbox.faults import Fault
from services.user_management.core.clock import SystemClock
from services.user_management.enums import JobName, ProviderErrorKind
from services.user_management.services import slice_time
from services.user_management.services.integration_health_service import check as check_module
from services.user_management.services.slice_time import SliceTime
from services.user_management.tests.diagnosis_scenes import configure
from services.user_management.tests.health_scenes import STATIC, crowd, forget_reads, health_of, run_check
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, audit_actions

pytestmark = pytest.mark.slow

REFUSAL: dict[str, Any] = {"action": "status", "status": 401, "body": {"error": "invalid_token"}}


async def _without_refresh_token(scene: Connected) -> None:
    """Turn the integration into one without a refresh token whose access token never expires, like that of a classic
    OAuth app at GitHub."""
    await scene.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await scene.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")


async def _state(journey: Journey) -> tuple[str, str | None]:
    health = await health_of(journey)
    assert health is not None
    return health["state"], health["reason"]


# Which integrations are checked


async def test_connection_that_proved_itself_today_is_left_alone(connected: Connected) -> None:
    before = connected.calls("userinfo")

    await run_check(connected.journey)

    assert connected.calls("userinfo") == before
    assert (await connected.row())["last_checked_at"] is None


async def test_connection_that_nobody_used_for_a_day_is_probed_and_noted(connected: Connected) -> None:
    await forget_reads(connected)
    before = connected.calls("userinfo")

    await run_check(connected.journey)
    await run_check(connected.journey)

    assert connected.calls("userinfo") == before + 1
    row = await connected.row()
    assert (row["status"], row["last_checked_at"] is not None) == ("active", True)
    assert await _state(connected.journey) == ("up", None)


async def test_token_that_never_ends_is_probed_in_every_run(connected: Connected) -> None:
    await _without_refresh_token(connected)
    before = connected.calls("userinfo")

    await run_check(connected.journey)
    await run_check(connected.journey)

    assert connected.calls("userinfo") == before + 2


async def test_connection_of_a_suspended_user_is_left_alone(connected: Connected) -> None:
    await forget_reads(connected)
    await connected.journey.owner.execute("UPDATE users SET status = 'suspended'")
    before = connected.calls("userinfo")

    await run_check(connected.journey)

    assert connected.calls("userinfo") == before


async def test_run_ends_at_its_limit_and_the_next_goes_on_with_the_others(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = await crowd(journey, 5)
    monkeypatch.setattr(check_module, "MAX_PROBES", 2)
    before = scenes[0].calls("userinfo")
    calls = []

    for _ in range(4):
        await run_check(journey)
        calls.append(scenes[0].calls("userinfo") - before)

    assert calls == [2, 4, 5, 5]


@pytest.mark.parametrize("body", [{"error": "invalid_token"}, {"error": "nobody_knows_this"}])
async def test_those_that_fail_in_every_run_do_not_stand_before_the_others(
    journey: Journey, monkeypatch: pytest.MonkeyPatch, body: dict[str, str]
) -> None:
    scenes = await crowd(journey, 5)
    await _without_refresh_token(scenes[0])
    monkeypatch.setattr(check_module, "MAX_PROBES", 2)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    scenes[0].fail(operation="userinfo", times=2, action="status", status=401, body=body)

    for _ in range(3):
        await run_check(journey)

    checked = [(await scene.row())["last_checked_at"] is not None for scene in scenes]
    assert checked.count(True) >= 3


async def test_those_whose_key_is_missing_here_do_not_stand_before_the_others(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = await crowd(journey, 4)
    await journey.owner.execute(
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at)"
        " VALUES (7, 'decrypt_only', 'x', ''::bytea, now())"
    )
    for scene in sorted(scenes, key=lambda scene: scene.integration_id)[:2]:
        await journey.owner.execute(
            "UPDATE encrypted_tokens SET key_version = 7 WHERE integration_id = $1", scene.integration_id
        )
    monkeypatch.setattr(check_module, "MAX_PROBES", 2)

    await run_check(journey)
    await run_check(journey)

    assert [(await scene.row())["last_checked_at"] is not None for scene in scenes].count(True) == 2


class _Ticking(SystemClock):
    """A clock whose `monotonic` tells one second more at each call."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def monotonic(self) -> float:
        self._seconds += 1.0
        return self._seconds


async def test_walk_in_small_pages_and_slices_asks_everybody_once(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = await crowd(journey, 5)
    for scene in scenes[1:3]:
        await scene.set("last_probed_at", (await scene.row())["connected_at"])
    monkeypatch.setattr(check_module, "PAGE", 2)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    # A slice looks at the clock when it begins, before a page, and before a probe: there is time for one of them.
    monkeypatch.setattr(slice_time, "SLICE_SECONDS", 2.5)
    monkeypatch.setattr(
        journey.container.integrations.health, "start_slice", partial(SliceTime, _Ticking(), lambda: False)
    )
    before = scenes[0].calls("userinfo")

    slices = await run_check(journey)

    assert scenes[0].calls("userinfo") - before == 5
    assert slices > 5
    assert all([(await scene.row())["last_checked_at"] is not None for scene in scenes])


# What the check makes of each answer


async def test_dead_access_token_is_replaced_by_a_refresh(connected: Connected) -> None:
    await forget_reads(connected)
    connected.journey.sandbox.providers["static"].expire_access_tokens("ada@example.com")

    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["token_version"]) == ("active", 2)
    assert connected.calls("token.refresh") == 1


async def test_dead_grant_needs_its_user(connected: Connected) -> None:
    await forget_reads(connected)
    connected.journey.sandbox.providers["static"].revoke_account("ada@example.com")

    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "grant_refused")
    assert await _state(connected.journey) == ("up", None)
    assert (await audit_actions(connected.journey))[-1] == "integration.needs_reauth"


async def test_token_that_cannot_be_refreshed_is_given_a_second_chance(connected: Connected) -> None:
    await _without_refresh_token(connected)
    connected.fail(operation="userinfo", times=2, **REFUSAL)

    await run_check(connected.journey)
    once = await connected.row()
    await run_check(connected.journey)
    at_once_again = await connected.row()
    await run_check(connected.journey)
    accepted = await connected.row()

    assert (once["status"], once["last_failure"], once["last_failure_detail"]) == (
        "active",
        "access_token_refused",
        "invalid_token",
    )
    assert at_once_again["status"] == "active"
    assert (accepted["last_failure"], accepted["failing_since"]) == (None, None)


@pytest.mark.parametrize(
    ("errors", "status", "reason", "action"),
    [
        ({}, "needs_reauth", "grant_refused", "integration.needs_reauth"),
        (
            {"invalid_token": ProviderErrorKind.REVOKED},
            "revoked",
            "revoked_at_provider",
            "integration.revoked",
        ),
    ],
)
async def test_token_that_is_refused_twice_fifteen_minutes_apart_is_dead(
    connected: Connected,
    monkeypatch: pytest.MonkeyPatch,
    errors: dict[str, ProviderErrorKind],
    status: str,
    reason: str,
    action: str,
) -> None:
    configure(connected.journey, monkeypatch, STATIC, errors=errors)
    await _without_refresh_token(connected)
    connected.fail(operation="userinfo", times=2, **REFUSAL)

    await run_check(connected.journey)
    await connected.journey.owner.execute("UPDATE integrations SET failing_since = now() - interval '15 minutes'")
    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["status_reason"]) == (status, reason)
    assert (await audit_actions(connected.journey))[-1] == action


async def test_provider_that_fails_for_three_is_down_and_the_rest_is_left_alone(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = await crowd(journey, 5)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    scenes[0].fail("status", operation="userinfo", status=503, times=50)
    before = scenes[0].calls("userinfo")

    await run_check(journey)

    assert scenes[0].calls("userinfo") == before + 3
    assert await _state(journey) == ("down", "http_503")
    assert {(await scene.row())["status"] for scene in scenes} == {"active"}


async def test_failures_between_answers_are_not_an_outage(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = await crowd(journey, 4)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    scenes[0].fail("status", operation="userinfo", status=503, times=2)
    scenes[0].fail("delay", operation="userinfo")
    scenes[0].fail("status", operation="userinfo", status=503)

    await run_check(journey)

    assert await _state(journey) == ("up", None)


async def test_only_connection_of_a_provider_that_fails_is_an_outage(connected: Connected) -> None:
    await forget_reads(connected)
    connected.fail("status", operation="userinfo", status=500)

    await run_check(connected.journey)

    assert await _state(connected.journey) == ("down", "http_500")
    assert (await connected.row())["status"] == "active"


async def test_provider_that_answers_again_is_up(connected: Connected) -> None:
    await forget_reads(connected)
    connected.fail("status", operation="userinfo", status=500)
    await run_check(connected.journey)
    down = await health_of(connected.journey)
    await connected.set("last_checked_at", None)
    await connected.journey.owner.execute("UPDATE integrations SET connected_at = now(), last_refresh_at = now()")

    await run_check(connected.journey)

    up = await health_of(connected.journey)
    assert down is not None
    assert up is not None
    assert (up["state"], up["reason"]) == ("up", None)
    assert up["since"] > down["since"]


async def test_state_that_lasts_keeps_its_beginning(connected: Connected) -> None:
    await forget_reads(connected)
    await run_check(connected.journey)
    first = await health_of(connected.journey)
    await forget_reads(connected)

    await run_check(connected.journey)

    second = await health_of(connected.journey)
    assert first is not None
    assert second is not None
    assert second["since"] == first["since"]
    assert second["checked_at"] > first["checked_at"]


async def test_client_that_is_refused_marks_nobody(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = await crowd(journey, 3)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    await journey.age_tokens()
    scenes[0].fail("error", error="invalid_client", times=10)

    await run_check(journey)

    assert await _state(journey) == ("misconfigured", "refresh_failed")
    assert scenes[0].calls("token.refresh") == 1
    assert {(await scene.row())["status"] for scene in scenes} == {"active"}


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ({"action": "error", "error": "who_knows"}, "up"),
        ({"action": "status", "status": 429}, "up"),
        ({"action": "status", "status": 503}, "down"),
    ],
)
async def test_refresh_that_fails_says_of_the_provider_what_its_answer_says(
    connected: Connected, fault: dict[str, Any], state: str
) -> None:
    await connected.set("status", "degraded")
    connected.fail(**fault)

    await run_check(connected.journey)

    health = await health_of(connected.journey)
    assert connected.calls() == 1
    assert (health or {})["state"] == state


async def test_provider_that_wants_fewer_calls_is_left_alone_and_not_down(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = await crowd(journey, 3)
    monkeypatch.setattr(check_module, "CONCURRENCY", 1)
    scenes[0].fail("status", operation="userinfo", status=429, times=3)
    before = scenes[0].calls("userinfo")

    await run_check(journey)

    assert scenes[0].calls("userinfo") == before + 1
    assert (await health_of(journey) or {})["state"] == "up"


async def test_token_that_ran_out_is_refreshed_instead_of_probed(connected: Connected) -> None:
    await forget_reads(connected)
    await connected.journey.age_tokens()
    before = connected.calls("userinfo")

    await run_check(connected.journey)

    assert (connected.calls("token.refresh"), connected.calls("userinfo")) == (1, before)
    assert (await connected.row())["token_version"] == 2


async def test_degraded_connection_that_can_be_refreshed_again_recovers(connected: Connected) -> None:
    await connected.journey.owner.execute(
        "UPDATE integrations SET status = 'degraded', status_reason = 'http_503', refresh_failures = 3"
    )

    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["refresh_failures"]) == ("active", 0)
    assert (await audit_actions(connected.journey))[-1] == "integration.recovered"


async def test_degraded_connection_without_a_refresh_token_recovers_by_its_access_token(connected: Connected) -> None:
    await _without_refresh_token(connected)
    await connected.journey.owner.execute(
        "UPDATE integrations SET status = 'degraded', status_reason = 'http_503', refresh_failures = 3"
    )

    await run_check(connected.journey)

    assert (await connected.row())["status"] == "active"
    assert (await audit_actions(connected.journey))[-1] == "integration.recovered"


async def test_connection_that_is_degraded_for_want_of_a_refresh_token_stays_so(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await connected.journey.owner.execute(
        "UPDATE integrations SET status = 'degraded', status_reason = 'no_refresh_token'"
    )

    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["last_checked_at"] is not None) == ("degraded", True)


async def test_damaged_token_needs_its_user(connected: Connected) -> None:
    await forget_reads(connected)
    ciphertext = await connected.ciphertext("access")
    await connected.store("access", ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]))

    await run_check(connected.journey)

    row = await connected.row()
    assert (row["status"], row["status_reason"]) == ("needs_reauth", "token_unreadable")


async def test_key_that_is_missing_here_marks_nobody(connected: Connected) -> None:
    await forget_reads(connected)
    owner = connected.journey.owner
    await owner.execute(
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at)"
        " VALUES (7, 'decrypt_only', 'x', ''::bytea, now())"
    )
    await owner.execute("UPDATE encrypted_tokens SET key_version = 7")

    await run_check(connected.journey)

    assert (await connected.row())["status"] == "active"


async def test_slot_runs_once_however_many_ask(connected: Connected) -> None:
    await _without_refresh_token(connected)
    container = connected.journey.container
    before = connected.calls("userinfo")

    ran = [
        await container.jobs.runner.run(
            JobName.CHECK_INTEGRATIONS, period_seconds=900, work=container.integrations.health.check
        )
        for _ in range(3)
    ]

    assert ran == [True, False, False]
    assert connected.calls("userinfo") == before + 1


async def test_fault_of_one_provider_leaves_the_others_alone(journey: Journey) -> None:
    static = await Connected.at(journey)
    overlap = await Connected.at(journey, "sandbox-overlap", email="bob@example.com", key=static.key)
    await forget_reads(static)
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="userinfo", action="status", status=500, times=9))

    await run_check(journey)

    assert await _state(journey) == ("down", "http_500")
    assert (await health_of(journey, "sandbox-overlap") or {})["state"] == "up"
    assert (await overlap.row())["last_checked_at"] is not None
