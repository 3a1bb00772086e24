"""Copies of the provider files, with addresses of the sandbox, for development."""

import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from services.devstack.preparation import Choices, Recipe, Sockets, make_plan
from services.devstack.provider_copies import BUILT_IN, configured_clients, copy_provider_files
from services.sandbox.app import create_app
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.sandbox.state import Sandbox

SANDBOX_URL = "http://127.0.0.1:8001"
NAMES = sorted(file.stem for file in BUILT_IN.glob("*.toml"))


def _copied(folder: Path, name: str) -> dict[str, Any]:
    return tomllib.loads((folder / f"{name}.toml").read_text())


def _environment(folder: Path, **person: str) -> dict[str, str]:
    choices = Choices(
        folder, [8000], 8001, ["sandbox"], {"DATABASE_URL": "postgresql://x", "REDIS_URL": "unix://x"} | person
    )
    return make_plan(choices, Sockets(None, None), Recipe(), echo=False).environment


def test_copies_lead_to_the_sandbox_and_keep_the_names_of_scopes(tmp_path: Path) -> None:
    names = copy_provider_files(tmp_path / "providers", f"{SANDBOX_URL}/")

    copy, original = _copied(tmp_path / "providers", "google"), _copied(BUILT_IN, "google")
    assert names == NAMES
    assert copy["token_endpoint"] == f"{SANDBOX_URL}/as/oauth2.googleapis.com/token"
    assert copy["scopes"] == original["scopes"]
    assert copy["scope_aliases"] == original["scope_aliases"]


@pytest.mark.parametrize("name", NAMES)
def test_copies_have_no_address_of_the_real_provider(tmp_path: Path, name: str) -> None:
    copy_provider_files(tmp_path, SANDBOX_URL)

    copy = _copied(tmp_path, name)
    addresses = {key: value for key, value in copy.items() if key.endswith(("endpoint", "issuer", "_uri"))}
    nested = [section["endpoint"] for section in copy.values() if isinstance(section, dict) and "endpoint" in section]
    assert all(address.startswith(f"{SANDBOX_URL}/as/") for address in [*addresses.values(), *nested])


@pytest.mark.parametrize("name", ["github", "google", "microsoft", "slack"])
async def test_copies_name_addresses_that_the_sandbox_serves(tmp_path: Path, name: str) -> None:
    copy_provider_files(tmp_path, SANDBOX_URL)
    file = _copied(tmp_path, name)
    scope = {"user_scope" if name == "slack" else "scope": " ".join(file["required_scopes"])}
    request = {"client_id": CLIENT_ID, "redirect_uri": "http://127.0.0.1/x", "response_type": "code", "auto": "approve"}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(Sandbox(base_url=SANDBOX_URL)))) as http:
        asked = await http.get(_address(file, "authorization_endpoint"), params=request | scope)
        form = {
            "grant_type": "authorization_code",
            "code": dict(parse_qsl(urlsplit(asked.headers["location"]).query))["code"],
            "redirect_uri": request["redirect_uri"],
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        answer = await http.post(_address(file, "token_endpoint"), data=form, headers={"Accept": "application/json"})
        tokens = answer.json().get("authed_user", answer.json())
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        told = await http.get(_address(file, "userinfo_endpoint"), headers=bearer)

    assert told.status_code == 200
    assert told.json().get("ok", True) is True


def _address(file: dict[str, Any], key: str) -> str:
    address: str = file[key]
    return address.replace("{tenant}", "common")


def test_plan_offers_the_real_providers_with_the_client_of_the_sandbox(tmp_path: Path) -> None:
    environment = _environment(tmp_path)

    clients = json.loads(environment["OAUTH_CLIENTS"])
    assert {"sandbox-strict", *NAMES} <= clients.keys()
    assert clients["google"]["client_id"] == CLIENT_ID
    assert environment["PROVIDERS_DIR"] == str(tmp_path / "providers")


def test_plan_leaves_a_provider_alone_that_the_person_has_configured(tmp_path: Path) -> None:
    _environment(tmp_path)

    environment = _environment(tmp_path, OAUTH_CLIENTS='{"google": {"client_id": "mine", "client_secret": "s"}}')

    clients = json.loads(environment["OAUTH_CLIENTS"])
    assert clients["google"]["client_id"] == "mine"
    assert clients.keys() >= set(NAMES)
    assert not (tmp_path / "providers" / "google.toml").exists()
    assert (tmp_path / "providers" / "sandbox-strict.toml").exists()


@pytest.mark.parametrize("own", [[], ["google"]])
def test_copies_leave_a_file_alone_that_is_somebodys_own(tmp_path: Path, own: list[str]) -> None:
    (tmp_path / "google.toml").write_text('name = "google"\n')

    names = copy_provider_files(tmp_path, SANDBOX_URL, except_for=own)

    assert names == [name for name in NAMES if name != "google"]
    assert (tmp_path / "google.toml").read_text() == 'name = "google"\n'


@pytest.mark.parametrize(
    ("value", "names"), [("", set()), ("{", set()), ("[]", set()), ('{"google": {}, "x": {}}', {"google", "x"})]
)
def test_clients_of_the_person_are_read_leniently(value: str, names: set[str]) -> None:
    assert configured_clients(value) == names
