"""Tests of provider files and client registrations: a provider is added without code, messages about mistakes name the
file and the key, and scopes are read by a provider's rules."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from services.user_management.container import Container
from services.user_management.enums import ProviderErrorKind, RefreshKind
from services.user_management.exceptions import StartupError, UnknownProviderError
from services.user_management.integrations.oauth_config import BUILT_IN, Registration, load_providers, read_provider
from services.user_management.settings import Environment, Settings
from services.user_management.settings.groups import OAuthGroup

CLIENT = Registration("id", SecretStr("secret"))
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


def test_two_files_of_one_folder_with_one_name_are_both_named(tmp_path: Path) -> None:
    first = _write(tmp_path)
    second = tmp_path / "copy.toml"
    second.write_text(FILE)

    with pytest.raises(StartupError) as refused:
        load_providers([BUILT_IN, tmp_path], {"acme": CLIENT})

    assert str(refused.value) == f"provider files {first} and {second}: both have the name acme"


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
        ('name = "acme"', 'name = "Acme!"', "line 2: name: "),
        ('slow_down = "transient"', 'slow_down = "fatal"', "line 14: errors.slow_down: "),
        ("[errors]", "[revocation]\nmethod = 'PUT'\n[errors]", "line 13: revocation.method: "),
        ("[errors]", "[revocation]\nmethod = 'PUT'\n[errors]", "line 12: revocation.endpoint: Field required"),
        ("[errors]", "[account]\nid = []\n[errors]", "line 13: account.id: "),
        ('refresh = "overlap"', 'refresh = "overlap"\ndaily_expiry = "6 o\'clock"', "line 9: daily_expiry: "),
        (
            'refresh = "overlap"',
            'refresh = "overlap"\ndaily_expiry = "06:00 Nowhere/Land"',
            "no time zone Nowhere/Land",
        ),
        ('refresh = "overlap"', 'refresh = "overlap"\nmax_concurrency = 0', "line 9: max_concurrency: "),
        (
            "[errors]",
            "[error_details]\ndescription_pattern = '('\n[errors]",
            "line 13: error_details.description_pattern: ",
        ),
        # Keys that do not go together, or one that needs another.
        ("https://acme.example/token", "https://{region}.acme.example/token", "parameters.region: has no value"),
        ('token_endpoint = "https://acme.example/token"\n', "", "token_endpoint: Field required, unless discovery"),
        ('userinfo_endpoint = "https://acme.example/me"\n', "", "userinfo_endpoint: Field required, unless discovery"),
        ('refresh = "overlap"', 'refresh = "overlap"\nnonce = true', "jwks_uri: Field required to verify ID tokens"),
        ("[errors]", "[account]\nsource = 'id_token'\n[errors]", "jwks_uri: Field required to verify ID tokens"),
        ("[errors]", "[consent_parameters]\nstate = 'x'\n[errors]", "line 13: consent_parameters.state: is set by"),
        ("[errors]", "[account]\n[userinfo]\n[errors]", "line 13: userinfo: says the same as [account]"),
        (
            'refresh = "overlap"',
            'refresh = "overlap"\nrevocation_endpoint = "https://acme.example/revoke"\nrevocation_note = "No."',
            "line 10: revocation_note: ",
        ),
        (
            'refresh = "overlap"',
            'refresh = "overlap"\nrevocation_endpoint = "https://acme.example/revoke"\n'
            'revocation = { endpoint = "https://acme.example/revoke" }',
            "line 9: revocation_endpoint: says the same",
        ),
    ],
)
def test_file_that_is_wrong_is_named_with_the_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = _write(tmp_path, FILE.replace(old, new))

    with pytest.raises(StartupError) as refused:
        read_provider(path)

    assert str(path) in str(refused.value)
    assert problem in str(refused.value)


def test_file_with_several_mistakes_is_told_of_each(tmp_path: Path) -> None:
    text = FILE.replace('refresh = "overlap"', 'refresh = "sometimes"\nsurprise = 1').replace('"transient"', '"fatal"')
    path = _write(tmp_path, text)

    with pytest.raises(StartupError) as refused:
        read_provider(path)

    told = str(refused.value)
    assert told.startswith(f"provider file {path}: ")
    assert all(part in told for part in ("line 8: refresh: ", "line 9: surprise: ", "line 15: errors.slow_down: "))


def test_parameters_of_the_client_fill_the_urls_of_the_file(tmp_path: Path) -> None:
    text = FILE.replace("https://acme.example/token", "https://{region}.acme.example/{client_id}/token")
    _write(tmp_path, text + '[parameters]\nregion = "eu"\n')

    standard = load_providers([tmp_path], {"acme": Registration("a/b", SecretStr("secret"))}).get("acme")
    chosen = load_providers([tmp_path], {"acme": Registration("a", SecretStr("secret"), {"region": "us"})}).get("acme")

    assert standard.config.token_endpoint == "https://eu.acme.example/a%2Fb/token"
    assert chosen.config.token_endpoint == "https://us.acme.example/a/token"


def test_parameter_that_the_file_does_not_have_is_named() -> None:
    client = Registration("id", SecretStr("secret"), {"tennant": "x"})

    with pytest.raises(StartupError, match="OAUTH_CLIENTS: provider microsoft has no parameter tennant"):
        load_providers([BUILT_IN], {"microsoft": client})


def test_clients_of_the_environment_bring_their_parameters(settings: Settings) -> None:
    clients = {"microsoft": {"client_id": "id", "client_secret": "s", "parameters": {"tenant": "contoso.example"}}}
    changed = settings.model_copy(update={"oauth": OAuthGroup.model_validate({"clients": json.dumps(clients)})})

    provider = Container(changed).resources.providers.get("microsoft")

    assert provider.config.issuer == "https://login.microsoftonline.com/contoso.example/v2.0"


def test_parameter_that_could_leave_its_place_in_a_url_is_refused() -> None:
    client = {"client_id": "id", "client_secret": "s", "parameters": {"tenant": "../../evil"}}

    with pytest.raises(ValidationError):
        OAuthGroup.model_validate({"clients": {"microsoft": client}})


@pytest.mark.parametrize(
    ("name", "kind", "pkce", "answers_iss", "nonce", "can_revoke"),
    [
        ("google", RefreshKind.STATIC, True, False, True, True),
        ("microsoft", RefreshKind.OVERLAP, True, False, True, False),
        ("github", RefreshKind.STRICT, True, True, False, True),
        ("slack", RefreshKind.STRICT, False, False, False, True),
    ],
)
def test_built_in_provider_has_its_properties(
    name: str, kind: RefreshKind, *, pkce: bool, answers_iss: bool, nonce: bool, can_revoke: bool
) -> None:
    config = read_provider(BUILT_IN / f"{name}.toml")

    assert (config.refresh, config.pkce, config.answers_iss) == (kind, pkce, answers_iss)
    assert (config.nonce, config.can_revoke) == (nonce, can_revoke)
    assert set(config.required_scopes) <= set(config.scopes)


def test_what_ends_a_grant_is_known() -> None:
    google = read_provider(BUILT_IN / "google.toml").grant_limits
    microsoft = read_provider(BUILT_IN / "microsoft.toml").grant_limits

    assert (google.testing_days, google.idle_days, google.live_tokens_per_account) == (7, 180, 100)
    assert (microsoft.idle_days, microsoft.spa_hours) == (90, 24)


def test_scopes_of_google_have_one_name_whatever_the_order() -> None:
    google = read_provider(BUILT_IN / "google.toml")
    answer = "https://www.googleapis.com/auth/userinfo.profile openid https://www.googleapis.com/auth/userinfo.email"

    assert google.parse_scopes(answer) == ("email", "openid", "profile")
    assert google.missing_required(["openid"]) == ["email"]
    assert google.missing_required(["openid", "https://www.googleapis.com/auth/userinfo.email"]) == []


def test_scopes_of_microsoft_lose_prefix_and_case_and_gain_what_is_never_named() -> None:
    microsoft = read_provider(BUILT_IN / "microsoft.toml")
    answer = "HTTPS://GRAPH.MICROSOFT.COM/mail.read https://graph.microsoft.com/Unknown.Thing Email openid profile"

    parsed = microsoft.parse_scopes(answer)

    assert parsed == ("Mail.Read", "Unknown.Thing", "email", "offline_access", "openid", "profile")
    assert microsoft.missing_required(["openid", "email", "profile"]) == []
    assert microsoft.missing_required(["openid", "email"]) == ["profile"]


def test_scopes_of_github_come_with_commas_and_with_what_they_imply() -> None:
    github = read_provider(BUILT_IN / "github.toml")

    assert github.parse_scopes("gist,user") == ("gist", "read:user", "user", "user:email", "user:follow")
    assert github.missing_required(github.parse_scopes("user")) == []
    assert github.missing_required(github.parse_scopes("read:user")) == ["user:email"]


@pytest.mark.parametrize(
    ("reported", "requested", "granted"),
    [
        (None, ["gist", "offline_access"], ("gist", "offline_access")),
        (["gist"], ["gist", "offline_access"], ("gist", "offline_access")),
        (["gist"], ["gist", "repo"], ("gist",)),
        ([], ["gist"], ()),
    ],
)
def test_granted_is_what_was_reported_and_what_is_never_reported(
    reported: list[str] | None, requested: list[str], granted: tuple[str, ...]
) -> None:
    github = read_provider(BUILT_IN / "github.toml")

    assert github.granted(reported, requested) == granted


@pytest.mark.parametrize("reported", [None, ["gist"]])
def test_silent_answer_without_a_refresh_token_does_not_grant_offline_access(reported: list[str] | None) -> None:
    github = read_provider(BUILT_IN / "github.toml")

    assert github.granted(reported, ["gist", "offline_access"], has_refresh_token=False) == ("gist",)


def test_answer_that_names_offline_access_is_believed_without_a_refresh_token() -> None:
    github = read_provider(BUILT_IN / "github.toml")

    assert "offline_access" in github.granted(["offline_access"], ["offline_access"], has_refresh_token=False)


def test_discovered_provider_is_asked_for_consent_where_offline_access_is_wanted() -> None:
    github = read_provider(BUILT_IN / "github.toml")
    found = github.model_copy(update={"discovery": True})
    own = found.model_copy(update={"authorization_parameters": {"prompt": "login"}})

    assert found.consent_for(["openid", "offline_access"]) == {"prompt": "consent"}
    assert found.consent_for(["openid"]) == github.consent_for(["openid", "offline_access"]) == {}
    assert own.consent_for(["openid", "offline_access"]) == {}


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
async def test_key_file_that_cannot_be_used_stops_the_start(
    settings: Settings, tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    change: dict[str, Any] = {"encryption": settings.encryption.model_copy(update={"keys_file": path})}

    with pytest.raises(StartupError, match="ENCRYPTION_KEYS_FILE") as refused:
        await Container(settings.model_copy(update=change)).start()

    assert problem in str(refused.value)


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_%%%", "whsec_c2hvcnQ=", "WHSEC_" + "A" * 44, "", "  "])
async def test_webhook_secret_that_cannot_be_used_stops_the_start(settings: Settings, secret: str) -> None:
    clerk = settings.clerk.model_copy(update={"webhook_signing_secret": SecretStr(secret)})

    with pytest.raises(StartupError, match="CLERK_WEBHOOK_SIGNING_SECRET"):
        await Container(settings.model_copy(update={"clerk": clerk})).start()
