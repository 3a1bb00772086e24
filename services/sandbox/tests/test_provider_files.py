"""The provider files that describe the sandbox's OpenID Connect providers to user management. There is one provider,
and one file, for each refresh kind (`KINDS`); the files agree with the providers' discovery documents."""

import tomllib
from pathlib import Path

import httpx

from services.sandbox.providers import KINDS, SCOPES, write_provider_files
from services.sandbox.tests.dance import BASE_URL


def test_write_provider_files_gives_one_per_kind(tmp_path: Path) -> None:
    names = write_provider_files(tmp_path / "providers", "http://127.0.0.1:8001/")

    assert names == [f"sandbox-{kind}" for kind in KINDS]
    assert sorted(file.name for file in (tmp_path / "providers").iterdir()) == sorted(f"{name}.toml" for name in names)


async def test_provider_file_agrees_with_discovery(tmp_path: Path, client: httpx.AsyncClient) -> None:
    write_provider_files(tmp_path, BASE_URL)

    for kind in KINDS:
        file = tomllib.loads((tmp_path / f"sandbox-{kind}.toml").read_text())
        discovered = (await client.get(f"/oidc/{kind}/.well-known/openid-configuration")).json()

        assert file["refresh"] == kind
        assert file["scopes"] == SCOPES
        assert set(file["required_scopes"]) <= set(discovered["scopes_supported"])
        assert file["client_authentication"] in discovered["token_endpoint_auth_methods_supported"]
        for member in ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint"):
            assert file[member] == discovered[member]
