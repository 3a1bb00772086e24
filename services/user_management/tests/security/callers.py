"""All kinds of callers, each with a credential and with parameter values for schemathesis, most of which name existing
data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Headers
from services.user_management.tests.security.loop_bridge import Credential

# Fixed, so that a seed gives the same cases every time.
OWNER_ID: Final = "user_000000000000000000000Owner"
OTHER_ID: Final = "user_000000000000000000000Other"
ADMIN_ID: Final = "user_000000000000000000000Admin"
PROVIDER: Final = "sandbox-static"

DICTIONARIES: Final = {"users": ["me", OWNER_ID, OTHER_ID, ADMIN_ID], "owner": [OWNER_ID], "provider": [PROVIDER]}
_MOSTLY_REAL: Final = {
    "path.user_id": {"dictionary": "users", "probability": 0.8},
    "path.provider": {"dictionary": "provider", "probability": 0.8},
    "body.user_id": {"dictionary": "owner", "probability": 0.8},
    "body.provider": {"dictionary": "provider", "probability": 0.8},
}


@dataclass(frozen=True, slots=True)
class Caller:
    """One kind of caller. `parameters` are values for schemathesis. A caller who is `at_home` may use what these name,
    and is tested more thoroughly."""

    credential: Credential | None
    parameters: Mapping[str, Any] = field(default_factory=lambda: _MOSTLY_REAL)
    at_home: bool = False


CALLERS: Final = (
    *("anonymous", "user", "other user", "admin user"),
    *("service with a grant", "service without a grant", "Clerk"),
)


_ALIVE: Final = (
    "UPDATE users SET status = 'active', suspended_at = NULL, suspended_reason = NULL, deleted_at = NULL,"
    " deleted_by = NULL WHERE status <> 'active' OR deleted_at IS NOT NULL"
)


async def callers(journey: Journey) -> dict[str, Caller]:
    """Sign all users up, connect the owner's account, and make the services with their grants. Return the callers by
    the names in CALLERS."""
    owner = await journey.sign_up("owner@example.com", user_id=OWNER_ID)
    await journey.connect(owner, PROVIDER)
    await journey.sign_up("other@example.com", user_id=OTHER_ID)
    await journey.sign_up("admin@example.com", user_id=ADMIN_ID)
    granted = await journey.service_key(PROVIDER, name="granted")
    not_granted = await journey.service_key("sandbox-strict", name="not-granted")
    own = _MOSTLY_REAL | {"path.user_id": "me", "path.provider": PROVIDER}
    return {
        "anonymous": Caller(None),
        "user": Caller(_session(journey, OWNER_ID), own, at_home=True),
        "other user": Caller(_session(journey, OTHER_ID)),
        "admin user": Caller(_session(journey, ADMIN_ID), _MOSTLY_REAL | {"path.user_id": OWNER_ID}, at_home=True),
        "service with a grant": Caller(_constant(granted), at_home=True),
        "service without a grant": Caller(_constant(not_granted)),
        "Clerk": Caller(_signature(journey)),
    }


def _session(journey: Journey, user_id: str) -> Credential:
    async def credential(_body: bytes) -> Headers:
        # An earlier case may have deleted or suspended the user, who would then not get past the guard.
        await journey.owner.execute(_ALIVE)
        return journey.headers_of(user_id)

    return credential


def _constant(headers: Headers) -> Credential:
    async def credential(_body: bytes) -> Headers:
        return headers

    return credential


def _signature(journey: Journey) -> Credential:
    async def credential(body: bytes) -> Headers:
        return journey.sandbox.clerk.sign(body)

    return credential
