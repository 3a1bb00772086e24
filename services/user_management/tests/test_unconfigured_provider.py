"""Tests of a provider that was taken out of the configuration: its integrations are still shown, and can be ended."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from services.user_management.tests.actors import TESTER
from services.user_management.tests.integration_scenes import (
    PROVIDER,
    no_longer_offering,
    revocation_of,
    revocation_states,
)
from services.user_management.tests.scenes import Connected, assert_problem

PATH = f"/users/me/integrations/{PROVIDER}"
ROUTES = [
    ("GET", PATH, None),
    ("DELETE", PATH, None),
    ("PATCH", PATH, {"metadata": {"label": "x"}}),
    ("GET", f"{PATH}/activity", None),
]


@pytest.fixture
def gone(connected: Connected) -> Iterator[Connected]:
    """An integration whose provider was taken out of the configuration since it was made."""
    with no_longer_offering(connected.journey.container, PROVIDER):
        yield connected


async def _ask(scene: Connected, method: str, path: str, body: Any = None) -> httpx.Response:
    return await scene.journey.client.request(method, path, headers=scene.headers, json=body)


async def test_connection_is_still_listed_and_shown(gone: Connected) -> None:
    listed = await _ask(gone, "GET", "/users/me/integrations")
    shown = await _ask(gone, "GET", PATH)

    assert (shown.status_code, shown.json()["id"]) == (200, gone.integration_id)
    assert [item["id"] for item in listed.json()["items"]] == [gone.integration_id]
    assert shown.json()["missing_scopes"] == []


async def test_notes_can_still_be_changed(gone: Connected) -> None:
    response = await _ask(gone, "PATCH", PATH, {"metadata": {"label": "work"}})

    assert (response.status_code, response.json()["metadata"]) == (200, {"label": "work"})


async def test_activity_is_still_told(connected: Connected) -> None:
    await connected.get(reason="nightly sync")

    with no_longer_offering(connected.journey.container, PROVIDER):
        response = await _ask(connected, "GET", f"{PATH}/activity")

    assert [item["reason"] for item in response.json()["items"]] == ["nightly sync"]


async def test_activity_of_a_connection_that_nobody_has_read_is_empty(gone: Connected) -> None:
    response = await _ask(gone, "GET", f"{PATH}/activity")

    assert (response.status_code, response.json()["items"]) == (200, [])


async def test_disconnect_is_noted_and_waits_for_the_provider(gone: Connected) -> None:
    response = await _ask(gone, "DELETE", PATH)
    await gone.journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(gone.journey)
    assert response.status_code == 200, response.text
    assert (response.json()["revocation"], response.json()["revocation_note"]) == ("pending", None)
    assert (row["state"], row["last_failure"], gone.calls("revoke")) == ("pending", "unknown_provider", 0)


async def test_disconnect_is_carried_out_when_the_provider_is_back(connected: Connected) -> None:
    journey = connected.journey
    with no_longer_offering(journey.container, PROVIDER):
        await _ask(connected, "DELETE", PATH)
        await journey.container.integrations.revocations.revoke_due(TESTER)
    await journey.owner.execute("UPDATE token_revocations SET next_attempt_at = now()")

    await journey.container.integrations.revocations.revoke_due(TESTER)

    assert await revocation_states(journey) == ["done"]
    assert connected.calls("revoke") == 1


@pytest.mark.parametrize(("age", "state"), [("6 days 23 hours", "pending"), ("7 days 1 minute", "given_up")])
async def test_revocation_is_given_up_after_a_week_without_the_provider(gone: Connected, age: str, state: str) -> None:
    journey = gone.journey
    await _ask(gone, "DELETE", PATH)
    await journey.owner.execute("UPDATE token_revocations SET requested_at = now() - $1::text::interval", age)

    with capture_logs() as logs:
        await journey.container.integrations.revocations.revoke_due(TESTER)

    row = await revocation_of(journey)
    assert (row["state"], row["last_failure"]) == (state, "unknown_provider")
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert errors == (["revocation.given_up"] if state == "given_up" else [])


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_unknown_provider_without_a_connection_is_not_found(
    gone: Connected, method: str, path: str, body: Any
) -> None:
    response = await _ask(gone, method, path.replace(PROVIDER, "myspace"), body)

    assert_problem(response, 404, "unknown_provider")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_unconfigured_provider_of_somebody_elses_connection_is_unknown(
    gone: Connected, method: str, path: str, body: Any
) -> None:
    bob = await gone.journey.sign_up("bob@example.com")

    response = await gone.journey.client.request(method, path, headers=bob.headers, json=body)

    assert_problem(response, 404, "unknown_provider")


async def test_new_connection_is_refused(gone: Connected) -> None:
    response = await _ask(gone, "POST", f"{PATH}/authorize", {})

    assert_problem(response, 404, "unknown_provider")
