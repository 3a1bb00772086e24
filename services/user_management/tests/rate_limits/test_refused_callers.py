"""Who pays for a refusal: the address that guessed, and nobody who only came late or came by."""

from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.user_management.core.clock import SystemClock
from services.user_management.enums import RateClass
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.journey import Journey
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import assert_problem

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CALLBACK = "/oauth/callback/sandbox-static?state=unknown&code=c"


@pytest.fixture
async def narrow(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journey]:
    """Two refusals an hour for each address, counted in this process: other tests come from the same address."""
    container = journey.container
    policies = {**container.resources.settings.limits.policies(), RateClass.ANONYMOUS: QuotaPolicy(2, 3600)}
    nowhere = create_redis_client("unix:///nowhere/valkey.sock")
    replace_in_group(monkeypatch, container, "resources", rate_limits=RateLimits(nowhere, policies, SystemClock()))
    yield journey
    await nowhere.aclose()


async def statuses(journey: Journey, headers: dict[str, str]) -> list[int]:
    return [(await journey.client.get("/users/me", headers=headers)).status_code for _ in range(4)]


async def test_guesses_from_one_address_run_out(narrow: Journey) -> None:
    ada = await narrow.sign_up()

    answered = await statuses(narrow, narrow.headers_of(ada.id, key=OTHER_KEY))
    refused = await narrow.client.get("/users/me")

    assert answered == [401, 401, 429, 429]
    assert int(assert_problem(refused, 429, "rate_limited")["status"]) == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert await statuses(narrow, ada.headers) == [200] * 4


async def test_session_that_has_run_out_costs_its_address_nothing(narrow: Journey) -> None:
    ada = await narrow.sign_up()

    answered = await statuses(narrow, narrow.headers_of(ada.id, issued_at=1_700_000_000))

    assert answered == [401] * 4


async def test_guesses_of_a_neighbour_do_not_close_the_way_back_from_a_provider(narrow: Journey) -> None:
    await statuses(narrow, {"Authorization": "Bearer nonsense"})

    returned = await narrow.client.get(CALLBACK)

    assert_problem(returned, 404, "flow_not_found")
