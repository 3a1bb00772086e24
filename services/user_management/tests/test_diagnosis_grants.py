"""Tests that the diagnosis tells apart the causes for which a consent at Google, Microsoft or Slack ends or is refused,
each brought about at the sandbox's imitation of the provider or in the database."""

from pathlib import Path
from typing import Any

import pytest

from services.sandbox.imitations.google import GoogleSettings
from services.sandbox.imitations.microsoft import MicrosoftSettings
from services.user_management.tests.diagnosis_scenes import Patient, configure_imitations, diagnose
from services.user_management.tests.journey import Journey


@pytest.fixture(autouse=True)
def imitations(journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_imitations(journey, tmp_path, monkeypatch)


async def _refused(patient: Patient) -> dict[str, dict[str, Any]]:
    assert await patient.read() == 409
    return await patient.findings()


async def test_google_grant_that_dies_seven_days_after_consent_is_testing_mode(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    patient.party.settings = GoogleSettings(testing=True)
    await patient.age(7.01)
    await patient.worked(days_ago=0.05)

    findings = await _refused(patient)

    found = findings["testing_mode"]
    assert (found["confidence"], found["who"], found["severity"]) == ("likely", "operator", "error")
    assert found["evidence"]["limit_days"] == 7
    assert found["evidence"]["days_from_consent_to_refusal"] == 7.0
    assert found["evidence"]["error"] == "invalid_grant"
    assert "Publish" in found["fix"]
    assert "idle_grant" not in findings
    assert "cause_unknown" not in findings


@pytest.mark.parametrize("age", [3.0, 6.5, 9.0, 30.0])
async def test_google_grant_that_dies_at_another_age_is_not_testing_mode(journey: Journey, age: float) -> None:
    patient = await Patient.at(journey, "google")
    await patient.age(age)
    await patient.worked(days_ago=0.05)
    patient.party.revoke_account("ada@example.com")

    findings = await _refused(patient)

    assert "testing_mode" not in findings


async def test_google_grant_that_worked_long_before_and_died_somewhen_may_be_testing_mode(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    patient.party.settings = GoogleSettings(testing=True)
    await patient.age(40)

    findings = await _refused(patient)

    assert findings["testing_mode"]["confidence"] == "possible"


async def test_google_grant_unused_for_six_months_is_idle(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    await patient.age(185)

    findings = await _refused(patient)

    found = findings["idle_grant"]
    assert found["confidence"] == "likely"
    assert found["evidence"]["idle_days"] == 185.0
    assert found["evidence"]["limit_days"] == 180


async def test_google_grant_that_was_used_yesterday_is_not_idle(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    await patient.age(185)
    await patient.worked(days_ago=1)
    patient.party.revoke_account("ada@example.com")

    assert "idle_grant" not in await _refused(patient)


async def test_google_account_connected_too_often_is_the_token_limit(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    for _ in range(100):
        patient.party.issue("ada@example.com", ("openid", "email"))
    other = await Patient.at(journey, "google", email="bob@example.com")
    await _same_account_connected(patient, other, times=100)

    findings = await _refused(patient)

    found = findings["token_limit"]
    assert found["confidence"] == "likely"
    evidence = found["evidence"]
    assert (evidence["limit"], evidence["connects_by_others_since"]) == (100, 101)
    assert evidence["other_integrations_of_the_account"] == 1
    assert other.scene.user_id not in str(findings)


async def test_slack_workspace_that_is_being_moved_is_no_policy_and_passes(journey: Journey) -> None:
    patient = await Patient.at(journey, "slack")
    await patient.scene.set("last_failure", "org_login_required")
    await patient.scene.set("refresh_failures", 1)

    findings = await patient.findings()

    assert findings.keys() == {"refresh_failing"}
    assert "most likely the Slack workspace is just being moved" in findings["refresh_failing"]["explanation"]


async def test_attempt_that_a_moving_slack_workspace_refused_is_no_policy(journey: Journey) -> None:
    person = await journey.sign_up()
    await journey.authorize(person, "slack")
    await journey.owner.execute("UPDATE oauth_flows SET status = 'returned', error = 'org_login_required'")

    findings = (await diagnose(journey, person, "slack"))["findings"]

    assert "admin_policy" not in {finding["code"] for finding in findings}


async def test_google_account_connected_once_is_not_the_token_limit(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    await Patient.at(journey, "google", email="bob@example.com")
    patient.party.revoke_account("ada@example.com")

    assert "token_limit" not in await _refused(patient)


async def _same_account_connected(patient: Patient, other: Patient, *, times: int) -> None:
    """Give the integration of `other` the same account at the provider, and record that it was connected `times` more
    times."""
    owner = patient.scene.journey.owner
    await owner.execute(
        "UPDATE integrations SET provider_account_id = (SELECT provider_account_id FROM integrations WHERE id = $1)"
        " WHERE id = $2",
        patient.scene.integration_id,
        other.scene.integration_id,
    )
    await owner.execute(
        "INSERT INTO audit_logs (id, occurred_at, action, actor_kind, actor_id, user_id, target_type, target_id,"
        " request_id) SELECT uuid_in(overlay(a.id::text placing lpad(to_hex(n), 4, '0') from 33 for 4)::cstring),"
        " a.occurred_at, a.action, a.actor_kind, a.actor_id, a.user_id, a.target_type, a.target_id, '-'"
        " FROM audit_logs a, generate_series(1, $2) AS n WHERE a.target_id = $1 AND a.action = 'integration.connected'",
        other.scene.integration_id,
        times,
    )


async def test_refused_google_grant_may_be_a_shared_client(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    await patient.age(2)
    await patient.worked(days_ago=0.05)
    patient.party.revoke_account("ada@example.com")

    findings = await _refused(patient)

    found = findings["client_shared"]
    assert (found["confidence"], found["who"]) == ("possible", "operator")


async def test_google_consent_without_a_refresh_token_may_be_a_shared_client(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    await journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")

    findings = await patient.findings()

    assert findings["no_refresh_token"]["severity"] == "warning"
    assert findings["client_shared"]["confidence"] == "possible"
    assert "works" not in findings


async def test_google_disconnect_elsewhere_that_ended_the_grant_is_told(journey: Journey) -> None:
    patient = await Patient.at(journey, "google")
    other = await Patient.at(journey, "google", email="bob@example.com")
    await _same_account_connected(patient, other, times=0)
    path = "/users/me/integrations/google"
    await journey.client.delete(path, headers=other.scene.headers)
    await journey.owner.execute(
        "UPDATE token_revocations SET state = 'done', finished_at = now(), ciphertext = NULL, key_version = NULL"
    )
    patient.party.revoke_account("ada@example.com")

    findings = await _refused(patient)

    assert findings["grant_ended_by_another_disconnect"]["confidence"] == "likely"
    assert other.scene.user_id not in str(findings)


async def test_shared_client_is_not_named_where_one_revocation_ends_nothing_else(journey: Journey) -> None:
    patient = await Patient.at(journey, "sandbox-static")
    patient.party.revoke_account("ada@example.com")

    findings = await _refused(patient)

    assert findings.keys() == {"cause_unknown"}
    assert findings["cause_unknown"]["confidence"] == "possible"


@pytest.mark.parametrize("reason", ["admin_policy_enforced", "invalid_rapt"])
async def test_google_policy_is_named(journey: Journey, reason: str) -> None:
    patient = await Patient.at(journey, "google")
    await patient.age(7.01)
    await patient.worked(days_ago=0.05)
    patient.party.revoke_account("ada@example.com", reason)

    findings = await _refused(patient)

    expected = {"admin_policy_enforced": "admin_policy", "invalid_rapt": "reauthentication_policy"}[reason]
    assert findings.keys() == {expected}
    assert findings[expected]["confidence"] == "certain"
    assert findings[expected]["evidence"]["detail"] == reason


async def test_microsoft_grant_unused_for_90_days_is_idle(journey: Journey) -> None:
    patient = await Patient.at(journey, "microsoft")
    await patient.age(91)

    findings = await _refused(patient)

    assert findings.keys() == {"idle_grant"}
    found = findings["idle_grant"]
    assert found["confidence"] == "certain"
    assert found["evidence"]["detail"] == "AADSTS700082"
    assert found["evidence"]["limit_days"] == 90


async def test_microsoft_redirect_of_a_single_page_app_is_named(journey: Journey) -> None:
    patient = await Patient.at(journey, "microsoft")
    patient.party.settings = MicrosoftSettings(spa=True)
    await patient.age(1.01)

    findings = await _refused(patient)

    assert findings.keys() == {"single_page_client"}
    found = findings["single_page_client"]
    assert (found["confidence"], found["who"]) == ("certain", "operator")
    assert found["evidence"]["detail"] == "AADSTS700084"


@pytest.mark.parametrize(
    ("reason", "codes", "detail"),
    [
        ("password_changed", {"consent_taken_back": "certain"}, "AADSTS50173"),
        ("mfa_required", {"sign_in_policy": "certain"}, "AADSTS50076"),
        ("consent_required", {"admin_policy": "likely", "consent_taken_back": "likely"}, "AADSTS65001"),
    ],
)
async def test_microsoft_code_is_explained(journey: Journey, reason: str, codes: dict[str, str], detail: str) -> None:
    patient = await Patient.at(journey, "microsoft")
    await patient.age(1.01)
    patient.party.revoke_account("ada@example.com", reason)

    findings = await _refused(patient)

    assert {code: finding["confidence"] for code, finding in findings.items()} == codes
    assert {finding["evidence"]["detail"] for finding in findings.values()} == {detail}


@pytest.mark.parametrize(
    ("error", "number", "code"),
    [
        ("invalid_grant", 50105, "admin_policy"),
        ("invalid_grant", 90094, "admin_policy"),
        ("interaction_required", 50079, "sign_in_policy"),
        ("interaction_required", 53003, "sign_in_policy"),
    ],
)
async def test_microsoft_number_of_a_policy_is_explained(journey: Journey, error: str, number: int, code: str) -> None:
    patient = await Patient.at(journey, "microsoft")
    patient.scene.fail("error", error=error, members={"error_codes": [number]})

    findings = await _refused(patient)

    assert findings.keys() == {code}
    assert findings[code]["evidence"]["detail"] == f"AADSTS{number}"
    assert f"AADSTS{number}" in findings[code]["explanation"]


@pytest.mark.parametrize("provider", ["google", "microsoft", "github", "slack"])
async def test_connection_that_works_has_no_other_finding(journey: Journey, provider: str) -> None:
    patient = await Patient.at(journey, provider)

    findings = await patient.findings()

    assert findings.keys() == {"works"}
