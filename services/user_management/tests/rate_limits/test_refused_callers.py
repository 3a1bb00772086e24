"""Refusals count against an address that guesses credentials, but not against one whose session has run out, and they
do not shut out callers with good credentials at the same address."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn
from unittest.mock import AsyncMock

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import rsa

from services.user_management.core.clock import SystemClock
from services.user_management.database import Database
from services.user_management.enums import RateClass
from services.user_management.queries import service_client
from services.user_management.rate_limiter import RateLimits
from services.user_management.redis_client import create_redis_client
from services.user_management.services.service_credentials import ServiceAuthentication, ServiceCredential
from services.user_management.services.service_credentials.authentication import LIST_SECONDS
from services.user_management.services.token_service import USER_ID
from services.user_management.settings import QuotaPolicy
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.journey import Journey
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import assert_problem

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
GUESS = {"X-API-Key": f"ums_{'0' * 12}_{'0' * 64}"}
QUESTION = {"user_id": "user_x", "provider": "sandbox-static"}
FORM = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": "user_x",
    "subject_token_type": USER_ID,
    "audience": "sandbox-static",
}
ROUTES: dict[str, dict[str, Any]] = {
    "/internal/tokens/get": {"json": QUESTION},
    "/internal/tokens/refresh": {"json": QUESTION},
    "/internal/tokens/batch-get": {"json": {"items": [QUESTION]}},
    "/internal/users/batch-get": {"json": {"user_ids": ["user_x"]}},
    "/internal/oauth/token": {"data": FORM},
}
CALLBACK = "/oauth/callback/sandbox-static?state=unknown&code=c"


@pytest.fixture
async def narrow(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journey]:
    """Allow two refused credentials an hour per address, counted in this process and not in Redis, where the requests
    of other tests from the same address would count too."""
    container = journey.container
    policies = {**container.resources.settings.limits.policies(), RateClass.ANONYMOUS: QuotaPolicy(2, 3600)}
    nowhere = create_redis_client("unix:///nowhere/valkey.sock")
    replace_in_group(monkeypatch, container, "resources", rate_limits=RateLimits(nowhere, policies, SystemClock()))
    yield journey
    await nowhere.aclose()


def _no_connection(_database: Database) -> NoReturn:
    raise TimeoutError


async def statuses(journey: Journey, headers: dict[str, str]) -> list[int]:
    return [(await journey.client.get("/users/me", headers=headers)).status_code for _ in range(4)]


@pytest.mark.slow
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


@pytest.fixture
async def judged(narrow: Journey) -> AsyncIterator[list[str]]:
    """Return a list that records every statement that compares the secret of a service key, on both pools. Of the
    door's pool only one connection is watched: requests sent one by one all use that one."""
    sent: list[str] = []

    def note(statement: str) -> None:
        if "secret_hash =" in statement:
            sent.append(statement)

    def note_execution(_c: object, _cursor: object, statement: str, _p: object, _context: object, _m: object) -> None:
        note(statement)

    async with narrow.container.resources.database.door.acquire() as connection:
        connection.add_query_logger(lambda logged: note(logged.query))
    sa.event.listen(sa.Engine, "before_cursor_execute", note_execution)
    yield sent
    sa.event.remove(sa.Engine, "before_cursor_execute", note_execution)
    await narrow.container.resources.database.door.expire_connections()


@pytest.mark.parametrize("path", ROUTES)
async def test_guesses_over_the_limit_cost_no_statement(narrow: Journey, judged: list[str], path: str) -> None:
    answered = [(await narrow.client.post(path, headers=GUESS, **ROUTES[path])).status_code for _ in range(8)]

    assert answered == [401, 401, *[429] * 6]
    await asyncio.sleep(0)  # the driver reports a statement in the next round of the loop
    # The third one finds out that nothing is left.
    assert len(judged) == 3


async def test_other_secret_of_a_live_key_is_a_guess(narrow: Journey, judged: list[str]) -> None:
    key = (await narrow.service_key())["Authorization"].removeprefix("Bearer ")
    guess = {"X-API-Key": key[:-64] + "0" * 64}

    answered = [
        (await narrow.client.post("/internal/tokens/get", headers=guess, json=QUESTION)).status_code for _ in range(8)
    ]

    await asyncio.sleep(0)  # the driver reports a statement in the next round of the loop
    assert (answered, len(judged)) == ([401, 401, *[429] * 6], 3)


@pytest.fixture
async def guessed(narrow: Journey, monkeypatch: pytest.MonkeyPatch) -> Journey:
    """Use up the refusals that the address is allowed, then let the application authenticate like a new process, which
    has seen no key and no list of keys. Its clock stands still."""
    for _ in range(4):
        await narrow.client.post("/internal/tokens/get", headers=GUESS, json=QUESTION)
    fresh = ServiceAuthentication(narrow.container.resources.database, narrow.container.credentials.usage, SetClock())
    replace_in_group(monkeypatch, narrow.container, "credentials", authentication=fresh)
    return narrow


@pytest.mark.parametrize("path", ROUTES)
async def test_good_key_is_judged_beside_a_neighbour_who_guesses(
    guessed: Journey, judged: list[str], path: str
) -> None:
    key = await guessed.service_key()
    judged.clear()

    answered = await guessed.client.post(path, headers=key, **ROUTES[path])

    assert answered.status_code not in {401, 429}, answered.text
    await asyncio.sleep(0)  # the driver reports a statement in the next round of the loop
    assert judged


@pytest.mark.parametrize("path", ["/internal/tokens/get", "/internal/tokens/batch-get", "/internal/users/batch-get"])
async def test_keys_are_judged_beside_a_busy_main_pool(
    guessed: Journey, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    key = await guessed.service_key()
    monkeypatch.setattr(Database, "reading", _no_connection)

    answered = [
        (await guessed.client.post(path, headers=headers, **ROUTES[path])).status_code for headers in (key, GUESS)
    ]

    assert answered[0] not in {401, 429, 503}
    assert answered[1] == 429


async def test_callers_share_one_reading_of_the_keys_and_are_judged_when_it_fails(
    guessed: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock()
    readings: list[None] = []
    authentication = ServiceAuthentication(
        guessed.container.resources.database, guessed.container.credentials.usage, clock
    )

    async def fail_late(_pool: object) -> frozenset[tuple[str, bytes]]:
        readings.append(None)
        await asyncio.sleep(0)  # until all callers of the test have asked
        clock.seconds += 2 * LIST_SECONDS
        raise TimeoutError

    monkeypatch.setattr(service_client, "live_keys", fail_late)
    credential = ServiceCredential(key_id="0" * 12, secret_hash=b"x")
    at_once = await asyncio.gather(*(authentication.is_listed(credential) for _ in range(8)))
    afterwards = await authentication.is_listed(credential)

    assert [*at_once, afterwards] == [True] * 9
    assert len(readings) == 1


async def test_keys_that_were_read_stay_listed_while_they_cannot_be_read_again(
    guessed: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock()
    authentication = ServiceAuthentication(
        guessed.container.resources.database, guessed.container.credentials.usage, clock
    )
    known, guess = (ServiceCredential(key_id=key_id, secret_hash=b"x") for key_id in ("0" * 12, "1" * 12))
    answers = [frozenset({(known.key_id, known.secret_hash)}), TimeoutError()]
    monkeypatch.setattr(service_client, "live_keys", AsyncMock(side_effect=answers))
    await authentication.is_listed(known)
    clock.seconds += LIST_SECONDS

    listed = [await authentication.is_listed(credential) for credential in (known, guess)]

    assert listed == [True, False]
