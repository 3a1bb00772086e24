"""Provider files: an operator adds a provider without code, and is told by file and key what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.user_management.container import Container
from services.user_management.enums import ProviderErrorKind, RefreshKind
from services.user_management.exceptions import StartupError, UnknownProviderError
from services.user_management.integrations.oauth_config import BUILT_IN, load_providers, read_provider
from services.user_management.settings import Environment, Settings

CLIENT = ("id", SecretStr("secret"))
FILE = """
name = "acme"
display_name = "Acme"
issuer = "https://acme.example"
authorization_endpoint = "https://acme.example/authorize"
token_endpoint = "https://acme.example/token"
userinfo_endpoint = "https://acme.example/me"
refresh = "overlap"
scope_separator = ","
[scope_aliases]
"https://acme.example/mail" = "mail"
[errors]
token_revoked = "reauth"
slow_down = "transient"
"""


def _write(folder: Path, text: str = FILE) -> Path:
    path = folder / "acme.toml"
    path.write_text(text)
    return path


def test_file_of_the_operator_is_a_provider(tmp_path: Path) -> None:
    _write(tmp_path)

    registry = load_providers([BUILT_IN, tmp_path], {"acme": CLIENT})

    provider = registry.get("acme")
    assert (provider.config.refresh, provider.config.pkce) == (RefreshKind.OVERLAP, True)
    assert provider.config.parse_scopes("https://acme.example/mail,calendar calendar") == ("calendar", "mail")
    assert provider.config.error_kind("token_revoked") is ProviderErrorKind.REAUTH
    assert provider.config.error_kind("slow_down") is ProviderErrorKind.TRANSIENT
    assert provider.config.error_kind("invalid_client") is ProviderErrorKind.OPERATOR
    assert provider.config.error_kind("who_knows") is None


def test_provider_without_a_registration_is_not_on_offer(tmp_path: Path) -> None:
    _write(tmp_path)

    registry = load_providers([BUILT_IN, tmp_path], {"google": CLIENT})

    assert [provider.name for provider in registry] == ["google"]
    with pytest.raises(UnknownProviderError):
        registry.get("acme")


def test_file_of_the_operator_replaces_a_built_in_one(tmp_path: Path) -> None:
    _write(tmp_path, FILE.replace('"acme"', '"google"'))

    registry = load_providers([BUILT_IN, tmp_path], {"google": CLIENT})

    assert registry.get("google").config.display_name == "Acme"


def test_built_in_files_are_all_https() -> None:
    urls = [url for path in BUILT_IN.glob("*.toml") for url in read_provider(path).urls()]

    assert urls
    assert all(url.startswith("https://") for url in urls)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "acme"', 'name = "Acme!"', "name: "),
        ('name = "acme"', "", "name: Field required"),
        ('refresh = "overlap"', 'refresh = "sometimes"', "refresh: "),
        ("https://acme.example/token", "file:///etc/passwd", "token_endpoint: "),
        ("https://acme.example/token", "javascript:alert(1)", "token_endpoint: "),
        ('scope_separator = ","', 'scope_separator = ", "', "scope_separator: "),
        ('scope_separator = ","', 'surprise = "x"', "surprise: "),
        ('slow_down = "transient"', 'slow_down = "fatal"', "errors.slow_down: "),
        ('name = "acme"', "name = acme", "line 2"),
    ],
)
def test_file_that_is_wrong_is_named_with_the_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = _write(tmp_path, FILE.replace(old, new))

    with pytest.raises(StartupError) as refused:
        read_provider(path)

    assert str(path) in str(refused.value)
    assert problem in str(refused.value)


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "acme.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(StartupError, match=r"acme\.toml"):
        read_provider(path)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"PROVIDERS_DIR: .*nowhere is not a folder"):
        load_providers([tmp_path / "nowhere"], {})


def test_registration_without_a_file_is_named() -> None:
    with pytest.raises(StartupError, match="OAUTH_CLIENTS: there is no provider file for acme, myspace"):
        load_providers([BUILT_IN], {"myspace": CLIENT, "acme": CLIENT, "google": CLIENT})


def test_production_refuses_a_provider_without_https(settings: Settings) -> None:
    # The sandbox's own files are such providers.
    production = settings.model_copy(update={"environment": Environment.PRODUCTION})

    with pytest.raises(StartupError, match="PROVIDERS_DIR: provider sandbox-grace has an endpoint that is not https"):
        Container(production)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"1": "c2hvcnQ="}', "5 bytes"),
    ],
)
def test_key_file_that_cannot_be_used_stops_the_start(
    settings: Settings, tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    change: dict[str, Any] = {"encryption": settings.encryption.model_copy(update={"keys_file": path})}

    with pytest.raises(StartupError, match="ENCRYPTION_KEYS_FILE") as refused:
        Container(settings.model_copy(update=change))

    assert problem in str(refused.value)


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_%%%", "whsec_c2hvcnQ=", "WHSEC_" + "A" * 44, "", "  "])
def test_webhook_secret_that_cannot_be_used_stops_the_start(settings: Settings, secret: str) -> None:
    clerk = settings.clerk.model_copy(update={"webhook_signing_secret": SecretStr(secret)})

    with pytest.raises(StartupError, match="CLERK_WEBHOOK_SIGNING_SECRET"):
        Container(settings.model_copy(update={"clerk": clerk}))
