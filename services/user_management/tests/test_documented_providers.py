"""The provider files with discovery that the documentation shows, used as written against a strict OpenID provider."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.user_management.integrations.oauth_config import Registration, load_providers
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["README.md", "documentation/providers.md"])
async def test_documented_file_gives_a_connection_that_is_refreshed(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if "discovery = true" in block)
    issuer = f"{journey.sandbox.base_url}/oidc/strict"
    (tmp_path / "acme.toml").write_text(text.replace("https://login.acme.example", issuer), encoding="utf-8")
    clients = {"acme": Registration(CLIENT_ID, SecretStr(CLIENT_SECRET))}
    (provider,) = load_providers([tmp_path], clients)
    monkeypatch.setitem(journey.container.resources.providers._providers, "acme", provider)

    person = await journey.sign_up()
    connection = await journey.connect(person, "acme", scopes=())
    scene = Connected(journey, person, str(connection["id"]), "acme", await journey.service_key("acme"))
    await journey.age_tokens()
    answer = await scene.get()

    assert (await scene.row())["status"] == "active"
    assert (answer.status_code, answer.json()["refreshed"]) == (200, True)
