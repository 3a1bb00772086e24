"""Helpers for tests of the diagnosis route: integrations, which a test breaks at the sandbox and ages there and in the
database, and changes of providers' configurations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import SecretStr

from services.devstack.main_job import Person
from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import CLIENT_ID, CLIENT_SECRET
from services.user_management.integrations.oauth_config import Provider as Configured
from services.user_management.integrations.oauth_config import Registration, load_providers
from services.user_management.tests.journey import Journey
from services.user_management.tests.provider_copies import copy_providers
from services.user_management.tests.scenes import Connected

DAY = 86_400.0
_AGED = ("connected_at", "last_refresh_at", "last_checked_at", "status_changed_at", "last_failure_at", "created_at")


def configure(journey: Journey, monkeypatch: pytest.MonkeyPatch, provider: str, **changes: Any) -> None:
    """Change fields of a provider's loaded configuration for one test."""
    found = journey.container.resources.providers.get(provider)
    changed = Configured(found.config.model_copy(update=changes), found.client_id, found.client_secret)
    monkeypatch.setitem(journey.container.resources.providers._providers, provider, changed)


def configure_imitations(journey: Journey, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure the built-in providers (Google, Microsoft and the others), with addresses of the sandbox, for one
    test; the imitations forget all accounts and settings."""
    names = copy_providers(folder, journey.sandbox.base_url)
    clients = {name: Registration(CLIENT_ID, SecretStr(CLIENT_SECRET)) for name in names}
    for provider in load_providers([folder], clients):
        monkeypatch.setitem(journey.container.resources.providers._providers, provider.name, provider)
    for imitation in journey.sandbox.imitations.values():
        imitation.forget()


@dataclass(frozen=True, slots=True)
class Patient:
    """An integration that a test breaks and then diagnoses."""

    scene: Connected

    @classmethod
    async def at(
        cls, journey: Journey, provider: str, *, email: str = "ada@example.com", scopes: Sequence[str] = ()
    ) -> Self:
        """Sign a user up, connect an account at `provider`, and make a service that may read its tokens."""
        person: Person = await journey.sign_up(email)
        connection = await journey.connect(person, provider, scopes=tuple(scopes))
        key = await journey.service_key(provider, name=f"reader-{person.id[-8:].lower()}")
        return cls(Connected(journey, person, str(connection["id"]), provider, key))

    @property
    def party(self) -> Provider:
        """Return the sandbox's side of the integration's provider."""
        found = self.scene.journey.sandbox.provider(self.scene.provider.removeprefix("sandbox-"))
        assert found is not None
        return found

    async def age(self, days: float) -> None:
        """Move the integration's times in the database, and the times of all tokens that its provider has issued,
        `days` into the past. The times of the tokens in the database stay."""
        self.party.age(days * DAY)
        shifts = ", ".join(f"{column} = {column} - make_interval(secs => $2)" for column in _AGED)
        statement = f"UPDATE integrations SET {shifts} WHERE id = $1"  # noqa: S608 - our own column names
        await self.scene.journey.owner.execute(statement, self.scene.integration_id, days * DAY)

    async def worked(self, days_ago: float) -> None:
        """Set the time of the last refresh to `days_ago` days before now."""
        await self.scene.journey.owner.execute(
            "UPDATE integrations SET last_refresh_at = now() - make_interval(secs => $2) WHERE id = $1",
            self.scene.integration_id,
            days_ago * DAY,
        )

    async def read(self) -> int:
        """Let all access tokens expire, end the integration's pause after a failed refresh, and read the token as a
        service, which requires a refresh. Return the status of the answer."""
        await self.scene.journey.age_tokens()
        await self.scene.set("refresh_not_before", None)
        return (await self.scene.get()).status_code

    async def diagnose(self, **parameters: str) -> dict[str, Any]:
        """Return the diagnosis that the user gets."""
        return await diagnose(self.scene.journey, self.scene.person, self.scene.provider, **parameters)

    async def findings(self) -> dict[str, dict[str, Any]]:
        """Return the diagnosis's findings by their codes."""
        return {finding["code"]: finding for finding in (await self.diagnose())["findings"]}


async def diagnose(journey: Journey, person: Person, provider: str, **parameters: str) -> dict[str, Any]:
    """Return the body that the diagnosis route returns for a user's own integration. Fails the test unless the status
    is 200."""
    path = f"/users/me/integrations/{provider}/diagnose"
    response = await journey.client.get(path, headers=person.headers, params=parameters)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body
