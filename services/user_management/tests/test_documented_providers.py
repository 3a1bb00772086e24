"""Tests that the provider files in the documentation work as written, except that their addresses lead to the
sandbox."""

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.user_management.integrations.oauth_config import Registration, load_providers
from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected, assert_problem

ROOT = Path(__file__).parents[3]
PROVIDERS = "documentation/providers.md"
EMAIL = "ada@example.com"


def _offer(
    journey: Journey, folder: Path, monkeypatch: pytest.MonkeyPatch, page: str, name: str, addresses: dict[str, str]
) -> None:
    """Offer the provider `name` by its file on `page`, in which each key of `addresses` is replaced by its value, a
    path, at the sandbox's address."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if block.startswith(f'name = "{name}"'))
    for documented, served in addresses.items():
        assert documented in text
        text = text.replace(documented, f"{journey.sandbox.base_url}{served}")
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    (provider,) = load_providers([folder], {name: Registration(CLIENT_ID, SecretStr(CLIENT_SECRET))})
    monkeypatch.setitem(journey.container.resources.providers._providers, name, provider)


async def _connected(journey: Journey, name: str, scopes: tuple[str, ...] = ()) -> Connected:
    person = await journey.sign_up(EMAIL)
    connection = await journey.connect(person, name, scopes=scopes)
    return Connected(journey, person, str(connection["id"]), name, await journey.service_key(name))


@pytest.mark.parametrize("page", ["README.md", PROVIDERS])
async def test_documented_file_gives_a_connection_that_is_refreshed(
    journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    _offer(journey, tmp_path, monkeypatch, page, "acme", {"https://login.acme.example": "/oidc/strict"})
    scene = await _connected(journey, "acme")
    await journey.age_tokens()

    answer = await scene.get()

    assert (await scene.row())["status"] == "active"
    assert (answer.status_code, answer.json()["refreshed"]) == (200, True)


@pytest.fixture
def globex(journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journey:
    """Offer `globex`, the documented provider without discovery, at which EMAIL has consented to `profile.read`
    before."""
    hosts = ("id.globex.example", "api.globex.example")
    addresses = {f"https://{host}": f"/as/{host}" for host in hosts}
    _offer(journey, tmp_path, monkeypatch, PROVIDERS, "globex", addresses)
    party = journey.sandbox.imitations["globex"]
    party.forget()
    party.issue(EMAIL, ("profile.read",))
    return journey


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("documents.read", ["documents.read", "profile.read"]),
        ("documents.write", ["documents.read", "documents.write", "profile.read"]),
    ],
)
async def test_documented_file_without_discovery_gives_a_connection_that_is_refreshed(
    globex: Journey, asked: str, granted: list[str]
) -> None:
    scene = await _connected(globex, "globex", (asked,))
    await globex.age_tokens()

    answer = await scene.get(scopes=granted)

    row = await scene.row()
    account = globex.sandbox.imitations["globex"].accounts.get(EMAIL)
    assert (row["status"], json.loads(row["granted_scopes"])) == ("active", granted)
    assert (row["provider_account_id"], row["account_email"]) == (f"example.com.{account.id}", EMAIL)
    assert (answer.status_code, answer.json()["refreshed"]) == (200, True)
    assert 3500 < answer.json()["expires_in"] <= 3600


@pytest.mark.parametrize(
    ("error", "members", "status", "code"),
    [
        ("session_ended", {}, 409, "needs_reauth"),
        ("app_removed", {}, 409, "revoked"),
        ("invalid_grant", {"subcode": 17}, 502, "provider_misconfigured"),
        ("busy", {}, 503, "provider_unavailable"),
    ],
)
async def test_errors_of_the_documented_file_ask_whom_it_says(
    globex: Journey, error: str, members: dict[str, int], status: int, code: str
) -> None:
    scene = await _connected(globex, "globex")
    await globex.age_tokens()
    scene.fail("error", error=error, members=members)

    assert_problem(await scene.get(), status, code)


async def test_revocation_of_the_documented_file_ends_all_that_the_account_granted(globex: Journey) -> None:
    scene = await _connected(globex, "globex")
    await globex.client.delete("/users/me/integrations/globex", headers=scene.headers)

    await globex.container.integrations.revocations.revoke_due(TESTER)

    assert [grant.alive for grant in globex.sandbox.imitations["globex"].grants(EMAIL)] == [False, False]
