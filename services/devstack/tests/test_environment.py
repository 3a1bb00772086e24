import json
import stat
import sys
from pathlib import Path

import pytest

from services.devstack.development_secrets import DevelopmentSecrets
from services.devstack.environment import Addresses, OAuthClient, development_environment, process_environment
from services.devstack.errors import DevstackError

ADDRESSES = Addresses(
    port=8000,
    sandbox_port=8001,
    database_url="postgresql://runtime@/x",
    database_migration_url="postgresql://owner@/x",
    redis_url="unix:///x",
)


def _development(folder: Path) -> dict[str, str]:
    return development_environment(
        folder,
        ADDRESSES,
        DevelopmentSecrets.of(folder),
        providers=["sandbox-strict"],
        client=OAuthClient("id", "secret"),
    )


def test_environment_values_fit_together(tmp_path: Path) -> None:
    variables = _development(tmp_path)

    assert variables["CLERK_ISSUER"] == variables["SANDBOX_URL"] + "/clerk"
    assert variables["CLERK_API_URL"] == variables["SANDBOX_URL"] + "/clerk/v1"
    assert variables["CLERK_SECRET_KEY"].startswith("sk_test_")
    assert variables["SANDBOX_WEBHOOK_URL"] == variables["PUBLIC_URL"] + "/webhooks/clerk"
    assert json.loads(variables["OAUTH_CLIENTS"]) == {"sandbox-strict": {"client_id": "id", "client_secret": "secret"}}
    assert json.loads(variables["ENCRYPTION_KEYS"]).keys() == {"1"}


def test_environment_what_the_person_set_wins(tmp_path: Path) -> None:
    merged = process_environment(_development(tmp_path), {"CLERK_ISSUER": "https://mine", "OTHER": "", "PORT": " "})

    assert merged["CLERK_ISSUER"] == "https://mine"
    assert merged["OTHER"] == ""
    assert merged["PORT"] == "8000"


def test_environment_oauth_clients_of_the_person_join_the_sandbox(tmp_path: Path) -> None:
    person = {"OAUTH_CLIENTS": json.dumps({"google": {"client_id": "g", "client_secret": "s"}})}

    merged = process_environment(_development(tmp_path), person)

    assert json.loads(merged["OAUTH_CLIENTS"]).keys() == {"google", "sandbox-strict"}


def test_environment_blank_oauth_clients_leave_those_of_the_sandbox(tmp_path: Path) -> None:
    merged = process_environment(_development(tmp_path), {"OAUTH_CLIENTS": " "})

    assert json.loads(merged["OAUTH_CLIENTS"]).keys() == {"sandbox-strict"}


def test_environment_sandbox_signs_with_the_first_webhook_secret(tmp_path: Path) -> None:
    merged = process_environment(_development(tmp_path), {"CLERK_WEBHOOK_SIGNING_SECRET": "whsec_new whsec_old"})

    assert merged["SANDBOX_WEBHOOK_SECRET"] == "whsec_new"


def test_environment_programs_come_from_our_own_environment(tmp_path: Path) -> None:
    merged = process_environment(_development(tmp_path), {"PATH": "/usr/bin"})

    assert merged["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_secrets_are_kept_private_and_stay_the_same(tmp_path: Path) -> None:
    first = DevelopmentSecrets.of(tmp_path)

    assert DevelopmentSecrets.of(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_secrets_file_that_is_damaged_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}")

    with pytest.raises(DevstackError, match=r"secrets\.json cannot be read"):
        DevelopmentSecrets.of(tmp_path)

    assert (tmp_path / "secrets.json").read_text() == "{}"
