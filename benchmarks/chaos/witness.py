"""A client with which the chaos run makes consents at the sandbox's providers, changes their settings and clocks,
scripts their faults, and reads which refresh calls they received."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx

from benchmarks.chaos.waiting import until
from benchmarks.errors import BenchmarkError
from services.devstack.main_job import expect
from services.sandbox.providers import Kind

REFRESH: Final = "token.refresh"
REUSED: Final = "refresh_token_reused"
_STRIKES_WITHIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One refresh call as the provider recorded it."""

    account: str | None
    """Account of the refresh token; None if the provider refused or failed before it looked at the token."""
    refresh_token: str | None
    """Fingerprint of the refresh token that was presented."""
    issued: str | None
    """Fingerprint of the refresh token in the answer; None if it had none."""
    committed: bool
    """Whether the provider carried the refresh out."""
    at: datetime
    """When the call came in."""


class Witness:
    """Client of the sandbox. Methods other than `accepts` raise MainJobError when the sandbox's answer has another
    status than expected."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def grant(self, kind: Kind, account: str, scopes: list[str]) -> dict[str, Any]:
        """Make a new consent for the account and return the provider's token answer."""
        body = {"account": account, "scopes": scopes}
        answer: dict[str, Any] = expect(await self._client.post(f"/oidc/{kind}/_control/grants", json=body), 201).json()
        return answer

    async def change(self, kind: Kind, **settings: Any) -> None:
        """Change settings of a provider, such as `delay_seconds`."""
        expect(await self._client.post(f"/oidc/{kind}/_control/settings", json=settings), 200)

    async def offset_clock(self, kind: Kind, seconds: int) -> None:
        """Put the provider's clock `seconds` ahead of the real time, or behind it if negative."""
        expect(await self._client.post(f"/oidc/{kind}/_control/clock-offset", json={"seconds": seconds}), 200)

    async def break_next(self, kind: Kind, action: str, **details: Any) -> None:
        """Script a fault of the sandbox: `action` applies to the next refresh call of the provider, or to the next
        `times` ones if `details` has `times`."""
        fault = {"party": f"oidc:{kind}", "operation": REFRESH, "action": action, **details}
        expect(await self._client.post("/_faults", json=fault), 201)

    async def let_go(self) -> None:
        """Remove all scripted faults and end all delays that are going on."""
        expect(await self._client.delete("/_faults"), 204)

    async def calls(self, kind: Kind) -> list[Call]:
        """Return every refresh call that the provider of this kind has received so far, oldest first."""
        query = {"party": f"oidc:{kind}", "operation": REFRESH}
        items = expect(await self._client.get("/_ledger", params=query), 200).json()["items"]
        return [
            Call(
                account=item["account"],
                refresh_token=item["refresh_token"],
                issued=item["issued_refresh_token"],
                committed=item["committed"],
                at=datetime.fromisoformat(item["started_at"]),
            )
            for item in items
        ]

    async def calls_of(self, kind: Kind, account: str) -> list[Call]:
        """Return the refresh calls with one account's refresh tokens, oldest first, including refused ones, for which
        the provider names no account."""
        calls = await self.calls(kind)
        tokens = {token for call in calls if call.account == account for token in (call.refresh_token, call.issued)}
        return [call for call in calls if call.account == account or call.refresh_token in tokens]

    async def reuses(self, kind: Kind, account: str) -> int:
        """Return how often the provider has revoked a grant of the account because a refresh token was used twice."""
        answer = await self._client.get(f"/oidc/{kind}/_control/grants", params={"account": account})
        return sum(item["revoked_because"] == REUSED for item in expect(answer, 200).json()["items"])

    async def until_struck(self) -> None:
        """Wait until every scripted fault has been applied to a call. Raises BenchmarkError if one still has not after
        30 seconds."""

        async def none_is_left() -> bool:
            return not expect(await self._client.get("/_faults"), 200).json()["items"]

        if not await until(none_is_left, seconds=_STRIKES_WITHIN_SECONDS):
            raise BenchmarkError(f"a scripted fault met no refresh within {_STRIKES_WITHIN_SECONDS:g} s")

    async def accepts(self, kind: Kind, access_token: str) -> bool:
        """Tell whether the token opens the user's profile at the provider now."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return (await self._client.get(f"/oidc/{kind}/userinfo", headers=headers)).status_code == 200
