"""Tests that the diagnosis names causes of trouble with an integration other than the end of its consent: scopes,
tokens, keys, the provider, and clocks."""

from pathlib import Path
from typing import Any

import pytest

from services.sandbox.faults import Fault
from services.sandbox.imitations.google import GoogleSettings
from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.provider_sections import DailyExpiry
from services.user_management.tests.actors import TESTER
from services.user_management.tests.diagnosis_scenes import Patient, configure, configure_imitations
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

STATIC = "sandbox-static"


async def _findings(connected: Connected) -> dict[str, dict[str, Any]]:
    return await Patient(connected).findings()


async def test_scope_that_was_unticked_is_named_with_what_it_is_for(journey: Journey) -> None:
    scene = await Connected.at(journey)
    await scene.set("requested_scopes", '["calendar.read", "email", "mail.read", "offline_access", "openid"]')

    findings = await _findings(scene)

    found = findings["unticked_scopes"]
    assert (found["severity"], found["confidence"]) == ("warning", "certain")
    assert found["evidence"]["not_granted"] == ["mail.read"]
    assert "mail.read (Read your mail)" in found["explanation"]
    assert findings.keys() == {"unticked_scopes"}


async def test_required_scope_that_was_unticked_is_why_the_user_is_needed(journey: Journey) -> None:
    ada = await journey.sign_up()
    journey.sandbox.faults.add(_narrowed("openid offline_access"))
    await journey.connect(ada, STATIC)
    connection_id = await journey.owner.fetchval("SELECT id FROM integrations")
    scene = Connected(journey, ada, str(connection_id), STATIC, {})

    found = (await _findings(scene))["unticked_scopes"]

    assert found["severity"] == "error"
    assert found["evidence"]["required"] == ["email"]


def _narrowed(scope: str) -> Fault:
    return Fault(party="oidc:static", operation="token.exchange", action="scope_narrowed", scope=scope)


async def test_scopes_that_were_all_granted_are_no_finding(connected: Connected) -> None:
    assert "unticked_scopes" not in await _findings(connected)


async def test_raised_requirement_is_told_with_what_is_missing(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(connected.journey, monkeypatch, STATIC, required_scopes=("openid", "email", "mail.read"))
    await connected.journey.container.integrations.health.check(TESTER, None)

    found = (await _findings(connected))["scope_upgrade"]

    assert found["confidence"] == "certain"
    assert found["evidence"]["missing"] == ["mail.read"]
    assert "Read your mail" in found["explanation"]


async def test_interrupted_refresh_is_explained(journey: Journey) -> None:
    scene = await Connected.at(journey, "sandbox-strict")
    await journey.age_tokens()
    scene.fail("reset", when="after")
    await scene.get()
    await scene.set("refresh_not_before", None)
    await scene.get()

    findings = await _findings(scene)

    assert findings.keys() == {"refresh_interrupted"}
    assert findings["refresh_interrupted"]["confidence"] == "certain"


async def test_missing_refresh_token_is_a_warning_until_the_token_ends(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await connected.set("requested_scopes", '["calendar.read", "email", "openid"]')

    early = await _findings(connected)
    await connected.journey.age_tokens()
    await connected.get()
    late = await _findings(connected)

    assert {code: finding["severity"] for code, finding in early.items()} == {"no_refresh_token": "warning"}
    assert {code: finding["severity"] for code, finding in late.items()} == {"no_refresh_token": "error"}


@pytest.mark.parametrize(("required", "severity"), [(("openid",), "warning"), (("openid", "offline_access"), "error")])
async def test_offline_access_that_a_strict_provider_ignored_is_the_operators(
    journey: Journey, monkeypatch: pytest.MonkeyPatch, required: tuple[str, ...], severity: str
) -> None:
    configure(journey, monkeypatch, STATIC, authorization_parameters={}, required_scopes=required)
    patient = await Patient.at(journey, STATIC, scopes=["email", "offline_access"])

    findings = await patient.findings()

    assert findings.keys() == {"offline_access_ignored"}
    found = findings["offline_access_ignored"]
    assert (found["severity"], found["who"], found["evidence"]["prompt"]) == (severity, "operator", None)
    assert "prompt=consent" in found["explanation"]
    assert found["fix"].startswith('Put `prompt = "consent"` under [consent_parameters]')


async def test_refresh_token_that_is_withheld_despite_the_consent_page_is_the_operators(journey: Journey) -> None:
    journey.sandbox.faults.add(Fault(party="oidc:static", operation="token.exchange", action="no_refresh_token"))
    patient = await Patient.at(journey, STATIC)

    findings = await patient.findings()

    assert findings.keys() == {"offline_access_ignored"}
    found = findings["offline_access_ignored"]
    assert (found["who"], found["evidence"]["prompt"]) == ("operator", "consent")
    assert "registration" in found["explanation"]


async def test_offline_access_that_is_granted_and_not_named_is_the_operators(journey: Journey) -> None:
    journey.sandbox.faults.add(_narrowed("openid email calendar.read"))
    patient = await Patient.at(journey, STATIC, scopes=["calendar.read"])

    findings = await patient.findings()

    assert findings.keys() == {"offline_access_unnamed"}
    found = findings["offline_access_unnamed"]
    assert (found["severity"], found["who"]) == ("error", "operator")
    assert "unreported_scopes" in found["fix"]


async def test_token_that_never_ends_needs_no_refresh_token(connected: Connected) -> None:
    await connected.journey.owner.execute("DELETE FROM encrypted_tokens WHERE kind = 'refresh'")
    await connected.journey.owner.execute("UPDATE encrypted_tokens SET expires_at = NULL")

    assert (await _findings(connected)).keys() == {"works"}


async def test_key_that_this_process_does_not_hold_is_the_operators(connected: Connected) -> None:
    owner = connected.journey.owner
    await owner.execute(
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at)"
        " VALUES (7, 'decrypt_only', 'x', ''::bytea, now())"
    )
    await owner.execute("UPDATE encrypted_tokens SET key_version = 7")

    findings = await _findings(connected)

    assert findings.keys() == {"key_missing"}
    assert findings["key_missing"]["evidence"]["key_versions"] == {"access": 7, "refresh": 7}
    assert findings["key_missing"]["who"] == "operator"


async def test_damaged_token_is_named(connected: Connected) -> None:
    ciphertext = await connected.ciphertext("access")
    await connected.store("access", ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]))

    findings = await _findings(connected)

    assert findings.keys() == {"token_unreadable"}
    assert findings["token_unreadable"]["evidence"]["kinds"] == ["access"]


async def test_provider_that_is_down_is_nobodys_fault(connected: Connected) -> None:
    await connected.journey.owner.execute(
        "INSERT INTO provider_health (provider, state, reason, since, checked_at)"
        " VALUES ($1, 'down', 'http_503', now() - interval '1 hour', now())",
        STATIC,
    )

    findings = await _findings(connected)

    assert findings.keys() == {"provider_down"}
    assert (findings["provider_down"]["who"], findings["provider_down"]["evidence"]["reason"]) == ("nobody", "http_503")


async def test_health_of_another_provider_is_no_finding(connected: Connected) -> None:
    await connected.journey.owner.execute(
        "INSERT INTO provider_health (provider, state, since, checked_at)"
        " VALUES ('sandbox-grace', 'down', now(), now())"
    )

    assert (await _findings(connected)).keys() == {"works"}


async def test_client_that_is_refused_is_the_operators(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="invalid_client")
    await connected.get()

    findings = await _findings(connected)

    assert findings.keys() == {"client_misconfigured", "cool_down"}
    found = findings["client_misconfigured"]
    assert (found["who"], found["evidence"]["reason"]) == ("operator", "invalid_client")


async def test_transient_failure_is_a_warning_with_a_pause(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=60)
    connected.fail("status", status=503, headers={"Retry-After": "300"})
    await connected.get()

    findings = await _findings(connected)

    assert findings.keys() == {"refresh_failing", "cool_down"}
    assert findings["refresh_failing"]["evidence"]["error"] == "http_503"
    assert 290 <= findings["cool_down"]["evidence"]["seconds_left"] <= 330


async def test_pause_that_is_over_is_no_finding(connected: Connected) -> None:
    await connected.journey.age_tokens(seconds_left=60)
    connected.fail("status", status=503)
    await connected.get()
    await connected.set("refresh_not_before", None)

    assert (await _findings(connected)).keys() == {"refresh_failing"}


@pytest.mark.parametrize(("skew", "told"), [(-90, True), (90, True), (60, False), (None, False)])
async def test_clock_that_is_wrong_is_told(connected: Connected, skew: int | None, *, told: bool) -> None:
    await connected.set("clock_skew_seconds", skew)

    findings = await _findings(connected)

    assert ("clock_skew" in findings) is told
    if told:
        side = "behind" if (skew or 0) > 0 else "ahead of"
        assert f"90 seconds {side}" in findings["clock_skew"]["title"]
        assert findings.keys() == {"clock_skew"}


async def test_clock_of_the_provider_is_measured_at_connect(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_imitations(journey, tmp_path, monkeypatch)
    journey.sandbox.imitations["google"].settings = GoogleSettings(clock_offset_seconds=90)
    patient = await Patient.at(journey, "google")

    found = (await patient.findings())["clock_skew"]

    assert 85 <= found["evidence"]["clock_skew_seconds"] <= 95


@pytest.mark.slow
async def test_provider_that_ends_all_tokens_each_day_is_normal(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiry = DailyExpiry.model_validate("06:00 Asia/Kolkata")
    configure(connected.journey, monkeypatch, STATIC, daily_expiry=expiry)

    findings = await _findings(connected)

    assert findings.keys() == {"daily_expiry"}
    found = findings["daily_expiry"]
    assert (found["severity"], found["evidence"]["daily_expiry"]) == ("notice", "06:00 Asia/Kolkata")
    assert 0 < found["evidence"]["seconds_until_the_next"] <= 86_400


async def test_refusal_that_lasted_for_days_names_the_code(connected: Connected) -> None:
    await connected.journey.age_tokens()
    connected.fail("error", error="flux_capacitor_empty", times=7)
    for _ in range(6):
        await connected.get()
        await connected.set("refresh_not_before", None)
        await connected.journey.owner.execute("UPDATE integrations SET failing_since = now() - interval '4 days'")
    await connected.get()

    findings = await _findings(connected)

    assert findings.keys() == {"refused_for_days"}
    assert findings["refused_for_days"]["evidence"]["error"] == "flux_capacitor_empty"


async def test_consent_that_was_taken_back_at_the_provider_is_certain(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(connected.journey, monkeypatch, STATIC, errors={"token_revoked": ProviderErrorKind.REVOKED})
    await connected.journey.age_tokens()
    connected.fail("error", error="token_revoked")
    await connected.get()

    findings = await _findings(connected)

    assert (await connected.row())["status"] == "revoked"
    assert findings.keys() == {"consent_taken_back"}
