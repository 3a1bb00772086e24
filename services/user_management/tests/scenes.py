"""Situations that many tests start from, and helpers that check answers and read the database at the end of a test."""

from dataclasses import dataclass
from typing import Any, Self

import httpx

from services.devstack.main_job import Person
from services.sandbox.faults import Fault, FaultAction
from services.user_management.tests.journey import Journey

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Connected:
    """A user with one integration, and `key`, the headers of a service that may read its tokens."""

    journey: Journey
    person: Person
    integration_id: str
    provider: str
    key: Headers

    @classmethod
    async def at(
        cls,
        journey: Journey,
        provider: str = "sandbox-static",
        *,
        email: str = "ada@example.com",
        key: Headers | None = None,
    ) -> Self:
        """Sign a user up and connect their account at `provider`; without `key`, also make a service with a grant."""
        person = await journey.sign_up(email)
        connection = await journey.connect(person, provider)
        key = key or await journey.service_key(provider)
        return cls(journey, person, str(connection["id"]), provider, key)

    @property
    def user_id(self) -> str:
        return self.person.id

    @property
    def headers(self) -> Headers:
        """Return the headers of a session of the user."""
        return self.person.headers

    @property
    def party(self) -> str:
        """Return the provider's name in the sandbox."""
        return provider_party(self.provider)

    async def get(self, **body: Any) -> httpx.Response:
        """Read the user's access token as the service, and return the answer."""
        return await self.journey.get_token(self.key, self.user_id, self.provider, **body)

    def fail(self, action: FaultAction, operation: str = "token.refresh", **fields: Any) -> None:
        """Let the provider answer the next call of `operation` with the fault `action`; `fields` are further fields of
        the sandbox's Fault, such as `times`."""
        self.journey.sandbox.faults.add(Fault(party=self.party, operation=operation, action=action, **fields))

    def calls(self, operation: str = "token.refresh") -> int:
        """Count the calls of `operation` to the provider."""
        return self.journey.sandbox.ledger.count(party=self.party, operation=operation)

    async def set(self, column: str, value: Any) -> None:
        """Overwrite one column of the integration."""
        statement = f"UPDATE integrations SET {column} = $2 WHERE id = $1"  # noqa: S608 - our own column names
        await self.journey.owner.execute(statement, self.integration_id, value)

    async def row(self) -> dict[str, Any]:
        """Return the integration's row."""
        return await only_row(self.journey, "SELECT * FROM integrations WHERE id = $1", self.integration_id)

    async def ciphertext(self, kind: str) -> bytes:
        """Return the stored ciphertext of one token."""
        statement = "SELECT ciphertext FROM encrypted_tokens WHERE integration_id = $1 AND kind = $2"
        stored: bytes = await self.journey.owner.fetchval(statement, self.integration_id, kind)
        return stored

    async def store(self, kind: str, ciphertext: bytes) -> None:
        """Overwrite the stored ciphertext of one token, as somebody with write access to the database might."""
        statement = "UPDATE encrypted_tokens SET ciphertext = $3 WHERE integration_id = $1 AND kind = $2"
        await self.journey.owner.execute(statement, self.integration_id, kind, ciphertext)


def provider_party(provider: str) -> str:
    """Return the provider's name in the sandbox's ledger: `oidc:static` for `sandbox-static`."""
    return provider.replace("sandbox-", "oidc:")


async def only_row(journey: Journey, statement: str, *arguments: Any) -> dict[str, Any]:
    """Return the single row that `statement` finds. Raises ValueError for none or several."""
    (row,) = await journey.owner.fetch(statement, *arguments)
    return dict(row)


async def audit_actions(journey: Journey, user_id: str | None = None) -> list[str]:
    """List the audited actions, of one user if given, the oldest first."""
    statement = "SELECT action FROM audit_logs WHERE $1::text IS NULL OR user_id = $1 ORDER BY occurred_at"
    return [row["action"] for row in await journey.owner.fetch(statement, user_id)]


async def read_outcomes(journey: Journey) -> list[str]:
    """List the outcomes in the record of token reads, the oldest first."""
    return [row["outcome"] for row in await journey.owner.fetch("SELECT outcome FROM token_reads ORDER BY read_at")]


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that `response` is the problem `code`, complete and consistent. Returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (code, status)
    assert body["title"]
    assert body["detail"] == body["message"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["timestamp"].endswith("Z")
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    if status == 401 and code == "unauthenticated":
        assert response.headers["www-authenticate"].startswith("Bearer")
    return body
