"""Tests of which users may act, how soon a process sees a change of that, and how often users' activity is written."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.user_management.database import Database
from services.user_management.observability import UNRECORDED_USES
from services.user_management.services.use_recorder import TIMEOUT_SECONDS
from services.user_management.services.user_service import SignIn, UserStates
from services.user_management.services.user_service.states import CACHE_SECONDS
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.journey import Journey
from services.user_management.tests.rate_limits.allowances import value_of
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import Headers, assert_problem, only_row


@pytest.fixture
def clock() -> SetClock:
    return SetClock(time.time())


@pytest.fixture
def other_process(journey: Journey, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> UserStates:
    """Give the application under test a memory of users that changes made through the container do not reset, as if
    another process had made them; return that memory."""
    container = journey.container
    states = UserStates(container.resources.database, clock)
    sign_in = SignIn(
        states=states,
        upstream=container.users.upstream,
        unit_of_work=container.resources.unit_of_work,
        admin_user_ids=frozenset(container.resources.settings.admin.user_ids),
        hold_back=timedelta(days=30),
        clock=clock,
    )
    replace_in_group(monkeypatch, container, "users", sign_in=sign_in)
    return states


async def status_of(journey: Journey, headers: Headers) -> int:
    return (await journey.client.get("/users/me", headers=headers)).status_code


async def test_suspended_user_is_refused_at_once_by_the_same_process(journey: Journey, admin: Headers) -> None:
    ada = await journey.sign_up()
    assert await status_of(journey, ada.headers) == 200

    await journey.client.post(f"/admin/users/{ada.id}/suspend", headers=admin, json={})

    assert_problem(await journey.client.get("/users/me", headers=ada.headers), 403, "user_inactive")


async def test_suspended_user_is_refused_within_two_seconds_by_another_process(
    journey: Journey, clock: SetClock, other_process: UserStates
) -> None:
    ada = await journey.sign_up()
    assert await status_of(journey, ada.headers) == 200

    await journey.container.users.administration.suspend_user(TESTER, ada.id, reason=None)
    clock.seconds += CACHE_SECONDS - 0.01
    before = await status_of(journey, ada.headers)
    clock.seconds += 0.01
    after = await status_of(journey, ada.headers)

    assert CACHE_SECONDS <= 2
    assert (before, after) == (200, 403)


async def test_lifted_suspension_is_seen_within_two_seconds_by_another_process(
    journey: Journey, clock: SetClock, other_process: UserStates
) -> None:
    ada = await journey.sign_up()
    await journey.container.users.administration.suspend_user(TESTER, ada.id, reason=None)
    assert await status_of(journey, ada.headers) == 403

    await journey.container.users.administration.unsuspend_user(TESTER, ada.id)
    clock.seconds += CACHE_SECONDS

    assert await status_of(journey, ada.headers) == 200


class _LateAnswers:
    """A database whose answers are held back until `arrive` is set; `sent` is set when the first one is ready."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self.sent = asyncio.Event()
        self.arrive = asyncio.Event()

    @property
    def door(self) -> "_LateAnswers":
        return self

    def get_idle_size(self) -> int:
        return 1

    async def acquire(self) -> "_LateAnswers":
        return self

    async def release(self, _connection: object) -> None:
        """Do nothing, since `acquire` has taken no connection."""

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        row = await self._pool.fetchrow(statement, *arguments)
        self.sent.set()
        await self.arrive.wait()
        return row


async def test_answer_of_before_a_suspension_that_arrives_after_it_is_not_remembered(
    journey: Journey, clock: SetClock
) -> None:
    ada = await journey.sign_up()
    line = _LateAnswers(journey.container.resources.database.door)
    states = UserStates(cast("Database", line), clock)
    issuer = journey.sandbox.clerk.issuer
    early = asyncio.create_task(states.find(issuer, ada.id))
    async with asyncio.timeout(5):
        await line.sent.wait()

    await journey.container.users.administration.suspend_user(TESTER, ada.id, reason=None)
    states.forget()
    line.arrive.set()
    await early
    late = await states.find(issuer, ada.id)

    assert late is not None
    assert late.status == "suspended"


# Activity


async def last_active(journey: Journey, user_id: str) -> datetime | None:
    row = await only_row(journey, "SELECT last_active_at FROM users WHERE id = $1", user_id)
    moment: datetime | None = row["last_active_at"]
    return moment


async def be_inactive(journey: Journey, user_id: str, *, minutes: float) -> datetime:
    """Move the user's last activity `minutes` into the past, let this process forget all users, and return the new
    time."""
    statement = "UPDATE users SET last_active_at = now() - make_interval(secs => $2) WHERE id = $1 RETURNING *"
    row = await journey.owner.fetchrow(statement, user_id, minutes * 60)
    assert row is not None
    journey.container.users.states.forget()
    moment: datetime = row["last_active_at"]
    return moment


async def test_first_request_is_activity_and_raises_no_version(journey: Journey) -> None:
    ada = await journey.sign_up()

    await status_of(journey, ada.headers)

    assert await last_active(journey, ada.id) is not None
    row = await only_row(journey, "SELECT version, updated_at = created_at AS same FROM users WHERE id = $1", ada.id)
    assert row == {"version": 1, "same": True}


@pytest.mark.parametrize(("minutes", "written"), [(4.9, False), (5.1, True)])
async def test_activity_is_written_once_in_five_minutes(journey: Journey, minutes: float, *, written: bool) -> None:
    ada = await journey.sign_up()
    before = await be_inactive(journey, ada.id, minutes=minutes)

    await asyncio.gather(*(status_of(journey, ada.headers) for _ in range(10)))

    assert (await last_active(journey, ada.id) != before) is written


async def test_activity_is_written_once_by_several_processes(
    journey: Journey, clock: SetClock, other_process: UserStates
) -> None:
    ada = await journey.sign_up()
    await be_inactive(journey, ada.id, minutes=10)
    await other_process.find(journey.sandbox.clerk.issuer, ada.id)
    await journey.owner.execute("UPDATE users SET last_active_at = now() - interval '1 minute'")
    noted_elsewhere = await last_active(journey, ada.id)

    # This process remembers activity of ten minutes ago, while the database has some of one minute ago.
    await status_of(journey, ada.headers)

    assert await last_active(journey, ada.id) == noted_elsewhere


async def test_activity_of_an_impersonator_is_not_the_users(journey: Journey) -> None:
    ada = await journey.sign_up()
    before = await be_inactive(journey, ada.id, minutes=60)
    headers = journey.headers_of(ada.id, act={"sub": "user_support"})

    assert await status_of(journey, headers) == 200

    assert await last_active(journey, ada.id) == before


async def test_activity_of_a_user_whose_row_is_being_changed_is_left_out(
    journey: Journey, other_process: UserStates
) -> None:
    ada = await journey.sign_up()
    async with journey.owner.transaction():
        await journey.owner.execute("SELECT FROM users FOR UPDATE")
        with capture_logs() as lines:
            assert await status_of(journey, ada.headers) == 200

    assert [line for line in lines if line["event"] == "use.not_recorded"] == []
    assert await last_active(journey, ada.id) is None


@pytest.mark.slow
async def test_profile_is_read_while_the_pool_for_writing_is_busy(journey: Journey, other_process: UserStates) -> None:
    ada, bob = await journey.sign_up(), await journey.sign_up("bob@example.com")
    database = journey.container.resources.settings.database
    unrecorded = UNRECORDED_USES.labels("user")
    before = value_of(unrecorded)

    async with AsyncExitStack() as exits:
        for _ in range(2 * database.pool_size):
            await exits.enter_async_context(journey.container.resources.database.reading())
        with capture_logs() as lines:
            async with asyncio.timeout(TIMEOUT_SECONDS + 1):
                found = [await status_of(journey, ada.headers)]
            async with asyncio.timeout(0.9 * TIMEOUT_SECONDS):
                # After a failed write nothing is written for ten seconds, so these do not wait for the busy pool.
                found += [await status_of(journey, person.headers) for person in (ada, bob)]

    assert found == [200, 200, 200]
    assert value_of(unrecorded) - before == 3
    assert [(line["thing"], line["reason"]) for line in lines if line["event"] == "use.not_recorded"] == [
        ("user", "TimeoutError")
    ]
