"""Tests of the settings: development needs no variable; production refuses what is missing or weak, and names every
problem at once."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.user_management.exceptions import StartupError
from services.user_management.security.key_sources import open_key_source
from services.user_management.settings import DEVELOPMENT_SECRET, Environment, Settings, load_settings, variable_names

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / ".env.example"
KEY = base64.b64encode(bytes(range(32))).decode()
LONG = "a-secret-of-sufficient-length-for-production"
PRODUCTION = {
    "ENVIRONMENT": "production",
    "PUBLIC_URL": "https://users.example.com",
    "DATABASE_URL": "postgresql://app:pw@db.internal/users",
    "REDIS_URL": "rediss://cache.internal:6379/0",
    "CLERK_ISSUER": "https://clerk.example.com",
    "CLERK_SECRET_KEY": "sk_live_1234567890",
    "CLERK_WEBHOOK_SIGNING_SECRET": "whsec_" + base64.b64encode(LONG.encode()).decode(),
    "CLERK_AUTHORIZED_PARTIES": "https://app.example.com",
    "ENCRYPTION_KEYS": json.dumps({"1": KEY}),
    "ENCRYPTION_SALT": LONG,
    "SIGNING_SECRET": LONG + "-other",
    "FRONTEND_ORIGINS": "https://app.example.com",
    "FRONTEND_RETURN_URLS": "https://app.example.com/connected",
    "FRONTEND_CONNECT_URL": "https://app.example.com/connect/{provider}?scopes={scopes}",
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables of the service that this machine has set, so that no test depends on them."""
    for name in variable_names():
        monkeypatch.delenv(name, raising=False)


def _load(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings(_env_file=None)


def _problems(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> dict[str, str]:
    """Load settings that must be refused; return, by variable, the problems that the error lists."""
    with pytest.raises(StartupError) as refused:
        _load(monkeypatch, environment)
    _, *lines = str(refused.value).splitlines()
    return dict(line.strip().split(": ", 1) for line in lines)


def test_development_needs_no_variable() -> None:
    settings = load_settings(_env_file=None)

    assert settings.environment is Environment.DEVELOPMENT
    assert settings.clerk.keys_url == "http://127.0.0.1:8001/clerk/.well-known/jwks.json"
    assert settings.log_json_lines is False


def test_production_with_everything_set_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(monkeypatch, PRODUCTION)

    assert settings.is_production
    assert settings.log_json_lines
    assert settings.frontend.return_urls == ["https://app.example.com/connected"]


def test_production_with_nothing_set_names_every_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = _problems(monkeypatch, {"ENVIRONMENT": "production", "SANDBOX_URL": "http://127.0.0.1:8001"})

    assert problems == {
        "SANDBOX_URL": "must not be set in production",
        "CLERK_SECRET_KEY": "is required",
        "DATABASE_URL": "is required",
        "REDIS_URL": "is required",
        "CLERK_WEBHOOK_SIGNING_SECRET": "is the development default",
        "ENCRYPTION_SALT": "is the development default",
        "SIGNING_SECRET": "is the development default",
        "ENCRYPTION_KEYS": "contains the development key",
        "PUBLIC_URL": "must be an https URL",
        "CLERK_ISSUER": "must be an https URL",
        "CLERK_JWKS_URL": "must be an https URL",
        "FRONTEND_CONNECT_URL": "must be an https URL",
        "CLERK_AUTHORIZED_PARTIES": "must be an https URL",
        "FRONTEND_ORIGINS": "must be an https URL",
        "FRONTEND_RETURN_URLS": "must be an https URL",
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"SIGNING_SECRET": "short"}, "is shorter than 32 characters"),
        ({"ENCRYPTION_SALT": "short"}, "is shorter than 32 characters"),
        ({"CLERK_WEBHOOK_SIGNING_SECRET": "whsec_c2hvcnQ="}, "must be whsec_ and base64 of at least 16 bytes"),
        ({"ENCRYPTION_KEYS": json.dumps({"1": KEY[:-4]})}, "version 1 is 30 bytes, 32 are needed"),
        ({"CLERK_SECRET_KEY": ""}, "is required"),
        ({"PUBLIC_URL": "https://localhost"}, "points at this machine"),
        ({"PUBLIC_URL": "https://[::1]:8000"}, "points at this machine"),
        ({"PUBLIC_URL": "https://127.1.2.3"}, "points at this machine"),
        ({"CLERK_JWKS_URL": "http://clerk.example.com/jwks"}, "must be an https URL"),
        ({"CLERK_API_URL": "http://api.clerk.com/v1"}, "must be an https URL"),
        ({"CLERK_API_URL": "https://127.0.0.1:8001/clerk/v1"}, "points at this machine"),
        ({"FRONTEND_RETURN_URLS": "https://a.example/x,http://b.example/x"}, "must be an https URL"),
        ({"SANDBOX_URL": "https://sandbox.example.com"}, "must not be set in production"),
        ({"ENCRYPTION_KEYS": ""}, "contains the development key"),
        ({"DATABASE_URL": ""}, "is required"),
        ({"ENCRYPTION_KMS_ENDPOINT": "http://kms.internal"}, "must be an https URL"),
        ({"ENCRYPTION_KMS_ENDPOINT": "https://127.0.0.1:5000"}, "points at this machine"),
        ({"ENCRYPTION_TRANSIT_URL": "http://bao.internal:8200"}, "must be an https URL, or an agent's on this machine"),
    ],
)
def test_production_refuses_what_is_weak(monkeypatch: pytest.MonkeyPatch, change: dict[str, str], problem: str) -> None:
    (variable,) = change

    assert _problems(monkeypatch, PRODUCTION | change) == {variable: problem}


def test_production_takes_its_keys_from_a_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"3": KEY}))

    settings = _load(monkeypatch, PRODUCTION | {"ENCRYPTION_KEYS": "", "ENCRYPTION_KEYS_FILE": str(file)})

    assert settings.encryption.keys == {}
    assert open_key_source(settings.encryption).versions() == [3]


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("PORT", "http", "integer"),
        ("PORT", "65536", "65535"),
        ("ENVIRONMENT", "prod", "'production'"),
        ("LOG_FORMAT", "xml", "pattern"),
        ("LOG_LEVEL", "LOUD", "pattern"),
        ("DATABASE_URL", "mysql://root:hunter22@db/users", "postgresql://"),
        ("DATABASE_MIGRATION_URL", "users.db", "postgresql://"),
        ("REDIS_URL", "http://cache:6379", "redis://"),
        ("DATABASE_POOL_SIZE", "0", "greater than or equal to 1"),
        ("FRONTEND_RETURN_URLS", "[]", "at least 1 item"),
        ("FRONTEND_ORIGINS", '["http://localhost:3000"', "is not JSON"),
        ("FRONTEND_ORIGINS", "[1]", "string"),
        ("OAUTH_CLIENTS", "{google: x}", "is not JSON"),
        ("OAUTH_CLIENTS", '{"google": {"client_id": "x"}}', "required"),
        ("ENCRYPTION_KEYS", "nonsense", "is not JSON"),
        ("ENCRYPTION_KEYS", "[]", "is not a JSON object"),
        ("ENCRYPTION_KEYS", '{"1": "%%%"}', "version 1 is not base64"),
        ("ENCRYPTION_KEYS", '{"1": 7}', "version 1 is 0 bytes"),
        ("ENCRYPTION_KEYS", json.dumps({"0": KEY}), "version 0 is not a positive number"),
        ("ENCRYPTION_KEYS", json.dumps({"one": KEY}), "version one is not a positive number"),
    ],
)
def test_value_that_cannot_be_read_is_named_in_any_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    problems = _problems(monkeypatch, {variable: value})

    assert set(problems) == {variable}
    assert problem in problems[variable]


def test_unreadable_values_do_not_hide_the_weak_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    change = {"PORT": "http", "ENCRYPTION_KEYS": "{", "SIGNING_SECRET": "short"}

    assert set(_problems(monkeypatch, PRODUCTION | change)) == set(change)


@pytest.mark.parametrize("length", [0, 5, 31, 33])
def test_key_of_a_wrong_length_is_never_echoed(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    secret = base64.b64encode(b"s3cr3t-value-that-must-not-leak-at-all"[:length]).decode()

    with pytest.raises(StartupError) as refused:
        _load(monkeypatch, {"ENCRYPTION_KEYS": json.dumps({"1": secret})})

    assert f"version 1 is {length} bytes" in str(refused.value)
    assert not secret or secret not in str(refused.value)
    assert refused.value.__cause__ is None


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(
        monkeypatch, PRODUCTION | {"OAUTH_CLIENTS": json.dumps({"google": {"client_id": "id", "client_secret": LONG}})}
    )

    shown = repr(settings) + settings.model_dump_json()

    for secret in (LONG, KEY, "sk_live_1234567890", "app:pw", PRODUCTION["CLERK_WEBHOOK_SIGNING_SECRET"]):
        assert secret not in shown


@pytest.mark.parametrize(
    "text", ['["https://a.example", "https://b.example"]', " https://a.example , https://b.example,"]
)
def test_list_is_read_as_json_and_between_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    settings = _load(monkeypatch, {"FRONTEND_ORIGINS": text})

    assert settings.frontend.origins == ["https://a.example", "https://b.example"]


def test_groups_are_read_from_plain_names(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(
        monkeypatch,
        {
            "DATABASE_DOOR_POOL_SIZE": "3",
            "CLERK_INSTANCE_ID": "ins_1",
            "DRAIN_DELAY_SECONDS": "1.5",
            "ADMIN_USER_IDS": "a,b",
        },
    )

    assert settings.database.door_pool_size == 3
    assert settings.clerk.instance_id == "ins_1"
    assert settings.drain.delay_seconds == 1.5
    assert settings.admin.user_ids == ["a", "b"]


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(monkeypatch, dict.fromkeys(variable_names(), ""))

    assert settings == load_settings(_env_file=None)
    assert settings.providers.dir is None
    assert settings.encryption.keys_file is None


def test_example_lists_exactly_the_variables_that_exist() -> None:
    lines = EXAMPLE.read_text().splitlines()
    listed = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]

    assert listed == list(variable_names())
    for name in listed:
        comment = lines[next(i for i, line in enumerate(lines) if line.startswith(f"{name}=")) - 1]
        assert comment.startswith("# "), f"{name} has no comment"


def test_example_holds_the_defaults_of_development() -> None:
    assert load_settings(_env_file=EXAMPLE) == load_settings(_env_file=None)


def test_example_is_refused_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")

    with pytest.raises(StartupError) as refused:
        load_settings(_env_file=EXAMPLE)

    for secret in ("CLERK_WEBHOOK_SIGNING_SECRET", "ENCRYPTION_KEYS", "ENCRYPTION_SALT", "SIGNING_SECRET"):
        assert f"  {secret}: " in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("services.user_management.main",),
        ("services.user_management.cli", "service", "list"),
        ("celery", "-A", "services.user_management.celery_app", "beat"),
    ],
    ids=["web", "cli", "beat"],
)
def test_process_that_cannot_be_configured_exits_with_2(command: tuple[str, ...], tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "ENVIRONMENT": "production"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}

    finished = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert finished.returncode == 2, finished.stderr
    assert "the configuration cannot be used" in finished.stderr
    assert "  SIGNING_SECRET: is the development default" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_every_kind_of_problem_is_in_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = {
        "CLERK_WEBHOOK_SIGNING_SECRET": "whsec_short",
        "CLERK_JWT_KEY": "garbage",
        "PROVIDERS_DIR": "/nowhere",
        "ENCRYPTION_KEYS_FILE": "/nowhere/keys.json",
        "DATABASE_POOL_SIZE": "many",
        "OAUTH_CLIENTS": "{",
        "SANDBOX_URL": "http://127.0.0.1:8001",
    }

    with pytest.raises(StartupError) as refused:
        _load(monkeypatch, PRODUCTION | broken)

    assert {line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]} == set(broken)


@pytest.mark.parametrize("key", [DEVELOPMENT_SECRET.encode()[:32], bytes(32)], ids=["development", "zeros"])
def test_production_refuses_a_known_key_in_the_key_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: bytes
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"1": base64.b64encode(key).decode()}))

    with pytest.raises(StartupError, match="ENCRYPTION_KEYS_FILE"):
        _load(monkeypatch, PRODUCTION | {"ENCRYPTION_KEYS": "", "ENCRYPTION_KEYS_FILE": str(file)})


def test_host_that_only_looks_like_this_machine_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    _load(monkeypatch, PRODUCTION | {"PUBLIC_URL": "https://localhost.example.com"})
