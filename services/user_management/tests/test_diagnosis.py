"""Tests of the diagnosis of integrations over HTTP and on the command line: what it answers, to whom, and that it never
tells a token."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from services.conftest import Servers
from services.user_management.settings import Settings
from services.user_management.tests.command_line import CommandLine
from services.user_management.tests.diagnosis_scenes import Patient, configure_imitations, diagnose
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, Headers, assert_problem

pytestmark = pytest.mark.slow

STATIC = "sandbox-static"


async def _findings(connected: Connected) -> dict[str, dict[str, Any]]:
    return await Patient(connected).findings()


async def test_connection_that_works_says_so_with_evidence(connected: Connected) -> None:
    await connected.get()

    body = await Patient(connected).diagnose()

    (found,) = body["findings"]
    assert (found["code"], found["severity"], found["confidence"], found["who"]) == (
        "works",
        "good",
        "certain",
        "nobody",
    )
    assert found["evidence"]["latest_reads"] == {"granted": 1}
    assert found["evidence"]["last_read_at"] is not None
    assert "last read" in found["explanation"]
    assert body["integration"]["id"] == connected.integration_id
    assert body["integration"]["has_refresh_token"] is True
    assert body["probe"] is None


async def test_diagnosis_never_holds_a_token(connected: Connected) -> None:
    token = (await connected.get()).json()["access_token"]
    refresh = connected.journey.sandbox.providers["static"].grants("ada@example.com")[0].refresh_tokens[0].value
    path = f"/users/me/integrations/{STATIC}/diagnose?live=true"

    response = await connected.journey.client.get(path, headers=connected.headers)

    assert token not in response.text
    assert refresh not in response.text
    assert "ciphertext" not in response.text


async def test_user_without_a_connection_is_told_so(journey: Journey) -> None:
    ada = await journey.sign_up()

    body = await diagnose(journey, ada, STATIC)

    assert body["integration"] is None
    assert [finding["code"] for finding in body["findings"]] == ["never_connected"]


async def test_provider_that_nobody_configured_is_named(journey: Journey) -> None:
    ada = await journey.sign_up()

    body = await diagnose(journey, ada, "myspace")

    (found,) = body["findings"]
    assert (found["code"], found["who"]) == ("provider_not_configured", "operator")


async def test_consent_that_was_denied_is_told(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, STATIC)
    location = await journey.consent(started["authorization_url"], account=ada.email, decision="deny")
    await journey.callback(location)

    codes = [finding["code"] for finding in (await diagnose(journey, ada, STATIC))["findings"]]

    assert codes == ["consent_denied", "never_connected"]


async def test_policy_of_an_administrator_that_stopped_an_attempt_is_told(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.authorize(ada, STATIC)
    await journey.owner.execute("UPDATE oauth_flows SET status = 'failed', error = 'admin_policy_enforced'")

    codes = [finding["code"] for finding in (await diagnose(journey, ada, STATIC))["findings"]]

    assert codes == ["never_connected", "admin_policy"]


async def test_attempt_that_the_front_end_never_confirmed_is_the_developers(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, STATIC)
    await journey.callback(await journey.consent(started["authorization_url"], account=ada.email))

    never_connected, early = (await diagnose(journey, ada, STATIC))["findings"]
    await journey.owner.execute("UPDATE oauth_flows SET expires_at = now() - interval '1 second'")
    late = (await diagnose(journey, ada, STATIC))["findings"][0]

    assert never_connected["code"] == "never_connected"
    assert (early["code"], early["who"], early["confidence"]) == ("connect_unconfirmed", "developer", "likely")
    assert (late["code"], late["who"], late["confidence"]) == ("connect_unconfirmed", "developer", "certain")


async def test_attempt_from_which_nobody_came_back_is_told(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.authorize(ada, STATIC)
    await journey.owner.execute("UPDATE oauth_flows SET expires_at = now() - interval '1 minute'")

    codes = {finding["code"]: finding for finding in (await diagnose(journey, ada, STATIC))["findings"]}

    assert codes["connect_abandoned"]["confidence"] == "likely"


async def test_attempt_that_is_under_way_is_no_finding(journey: Journey) -> None:
    ada = await journey.sign_up()
    await journey.authorize(ada, STATIC)

    codes = [finding["code"] for finding in (await diagnose(journey, ada, STATIC))["findings"]]

    assert codes == ["never_connected"]


async def test_code_that_the_provider_refused_is_told(journey: Journey) -> None:
    ada = await journey.sign_up()
    started = await journey.authorize(ada, STATIC)
    await journey.callback(await journey.consent(started["authorization_url"], account=ada.email))
    await journey.owner.execute("UPDATE oauth_flows SET status = 'consumed', consumed_at = now()")

    codes = {finding["code"]: finding for finding in (await diagnose(journey, ada, STATIC))["findings"]}

    assert codes["code_exchange_failed"]["confidence"] == "likely"


async def test_earlier_attempts_are_not_held_against_a_connection_that_works(connected: Connected) -> None:
    journey = connected.journey
    started = await journey.authorize(connected.person, STATIC)
    location = await journey.consent(started["authorization_url"], account="ada@example.com", decision="deny")
    await journey.callback(location)

    assert (await _findings(connected)).keys() == {"works"}


async def test_disconnected_connection_says_when_by_whom_and_what_became_of_the_grant(connected: Connected) -> None:
    journey = connected.journey
    await journey.client.delete(f"/users/me/integrations/{STATIC}", headers=connected.headers)

    findings = await _findings(connected)

    assert findings.keys() == {"disconnected", "revocation_pending"}
    assert findings["disconnected"]["evidence"]["by"] == "user"
    assert findings["disconnected"]["evidence"]["disconnected_at"] is not None
    assert findings["revocation_pending"]["severity"] == "notice"


async def test_connection_that_ended_with_its_user_says_so(connected: Connected, admin: Headers) -> None:
    journey = connected.journey
    await journey.client.delete("/users/me", headers=connected.headers)

    path = f"/admin/users/{connected.user_id}/integrations/{STATIC}/diagnose"
    findings = (await journey.client.get(path, headers=admin)).json()["findings"]

    (found,) = [finding for finding in findings if finding["code"] == "disconnected"]
    assert found["evidence"]["by"] == "user_deleted"
    assert found["explanation"] == "The integration was ended here when the user deleted their account."


async def test_grant_that_cannot_be_revoked_is_said_honestly(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_imitations(journey, tmp_path, monkeypatch)
    patient = await Patient.at(journey, "microsoft")
    await journey.client.delete("/users/me/integrations/microsoft", headers=patient.scene.headers)

    findings = await patient.findings()

    assert findings.keys() == {"disconnected", "revocation_impossible"}
    assert "myapps.microsoft.com" in findings["revocation_impossible"]["explanation"]


async def test_grant_that_was_revoked_needs_no_finding(connected: Connected) -> None:
    await connected.journey.client.delete(f"/users/me/integrations/{STATIC}", headers=connected.headers)
    await connected.journey.owner.execute(
        "UPDATE token_revocations SET state = 'done', finished_at = now(), ciphertext = NULL, key_version = NULL"
    )

    assert (await _findings(connected)).keys() == {"disconnected"}


async def test_account_chooses_the_connection(connected: Connected) -> None:
    patient = Patient(connected)

    own = await patient.diagnose(account="ada@example.com")
    other = await patient.diagnose(account="somebody@example.com")

    assert own["integration"]["id"] == connected.integration_id
    assert other["integration"] is None


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        (None, "accepted", None),
        ({"action": "status", "status": 401, "body": {"error": "invalid_token"}}, "refused", "access_token_refused"),
        ({"action": "status", "status": 503}, "unavailable", "http_503"),
    ],
)
async def test_live_asks_the_provider_once(
    connected: Connected, fault: dict[str, Any] | None, outcome: str, code: str | None
) -> None:
    before = connected.calls("userinfo")
    if fault is not None:
        connected.fail(operation="userinfo", **fault)

    body = await Patient(connected).diagnose(live="true")

    assert (body["probe"]["outcome"], body["probe"]["code"]) == (outcome, code)
    assert connected.calls("userinfo") == before + 1
    assert (await connected.row())["status"] == "active"


async def test_live_does_not_ask_with_a_token_that_ran_out(connected: Connected) -> None:
    await connected.journey.age_tokens()
    before = connected.calls("userinfo")

    body = await Patient(connected).diagnose(live="true")

    assert body["probe"]["outcome"] == "not_tried"
    assert connected.calls("userinfo") == before


async def test_admin_sees_why_a_suspended_user_gets_no_token(connected: Connected, admin: Headers) -> None:
    client = connected.journey.client
    await client.post(f"/admin/users/{connected.user_id}/suspend", headers=admin, json={"reason": "test"})

    response = await client.get(f"/admin/users/{connected.user_id}/integrations/{STATIC}/diagnose", headers=admin)

    (found,) = response.json()["findings"]
    assert (found["code"], found["evidence"]) == ("user_inactive", {"user_status": "suspended"})


async def test_admin_sees_that_a_user_is_deleted(connected: Connected, admin: Headers) -> None:
    client = connected.journey.client
    await client.delete(f"/admin/users/{connected.user_id}", headers=admin)

    response = await client.get(f"/admin/users/{connected.user_id}/integrations/{STATIC}/diagnose", headers=admin)

    assert response.json()["findings"][0]["code"] == "user_deleted"


async def test_unknown_user_is_not_found(journey: Journey, admin: Headers) -> None:
    response = await journey.client.get(f"/admin/users/user_nobody/integrations/{STATIC}/diagnose", headers=admin)

    assert_problem(response, 404, "user_not_found")


async def test_command_prints_findings_for_people_and_for_programs(
    connected: Connected, servers: Servers, database_name: str, settings: Settings
) -> None:
    cli = CommandLine(servers, database_name, settings)

    text = await asyncio.to_thread(cli, "diagnose", connected.user_id, STATIC)
    document = await asyncio.to_thread(cli, "diagnose", connected.user_id, STATIC, "--json")

    assert (text.returncode, text.stderr) == (0, "")
    assert "[good · certain] The integration works (works)" in text.stdout
    assert "Fix (nobody): Nothing has to be done." in text.stdout
    assert json.loads(document.stdout)["findings"][0]["code"] == "works"


async def test_command_works_on_the_day_the_key_is_another_one(
    connected: Connected, servers: Servers, database_name: str, settings: Settings
) -> None:
    cli = CommandLine(servers, database_name, settings)
    secret = base64.b64encode(b"another secret of thirty-two byt").decode()

    run = await asyncio.to_thread(cli, "diagnose", connected.user_id, STATIC, ENCRYPTION_KEYS=json.dumps({"1": secret}))

    assert run.returncode == 0
    assert "ENCRYPTION_KEYS: version 1" in run.stderr
    assert "(key_missing)" in run.stdout


async def test_command_for_an_unknown_user_says_so(
    connected: Connected, servers: Servers, database_name: str, settings: Settings
) -> None:
    cli = CommandLine(servers, database_name, settings)

    run = await asyncio.to_thread(cli, "diagnose", "user_nobody", STATIC)

    assert (run.returncode, run.stdout) == (1, "")
