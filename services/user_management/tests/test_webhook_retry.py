"""Tests of events from Clerk that cannot be applied: they are kept, tried again, parked after the last attempt, and
replayed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.conftest import Servers
from services.user_management.container import Container
from services.user_management.exceptions import NotFoundError
from services.user_management.services.webhook_service import BACKOFF
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clerk_history import (
    count,
    deleted,
    deliver,
    described,
    event,
    published,
    state_of,
    updated,
)
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem

Owner = asyncpg.Connection
pytestmark = pytest.mark.usefixtures("clean_database")

ADA = "user_ada"
PERSONAL: dict[str, Any] = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"}


@asynccontextmanager
async def _failing(owner: "Owner[asyncpg.Record]", table: str = "users") -> AsyncIterator[None]:
    """Let Postgres refuse every insert into and update of `table` within the block."""
    await owner.execute(f"ALTER TABLE {table} ADD CONSTRAINT fails CHECK (false) NOT VALID")
    try:
        yield
    finally:
        await owner.execute(f"ALTER TABLE {table} DROP CONSTRAINT fails")


async def _event(owner: "Owner[asyncpg.Record]", message_id: str = "msg_1") -> dict[str, Any]:
    row = await owner.fetchrow("SELECT * FROM webhook_events WHERE message_id = $1", message_id)
    assert row is not None
    return dict(row)


async def _make_due(owner: "Owner[asyncpg.Record]") -> None:
    await owner.execute("UPDATE webhook_events SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


async def _failed(container: Container, owner: "Owner[asyncpg.Record]", message_id: str = "msg_1") -> UUID:
    """Deliver an event about Ada whose first attempt fails, and return its id. The next attempt can succeed."""
    async with _failing(owner):
        accepted = await deliver(container, updated(ADA, at=1, **PERSONAL), message_id)
    assert not accepted.applied
    failed: UUID = (await _event(owner, message_id))["id"]
    return failed


@pytest.mark.parametrize("table", ["users", "user_identities", "user_preferences"])
async def test_event_that_fails_is_accepted_and_leaves_its_error_and_nothing_else(
    journey: Journey, owner: "Owner[asyncpg.Record]", table: str
) -> None:
    async with _failing(owner, table):
        response = await journey.webhook("user.updated", described(ADA, at=1, **PERSONAL), message_id="msg_1")

    assert (response.status_code, response.json()) == (200, {"duplicate": False, "applied": False})
    row = await _event(owner)
    assert (row["applied_at"], row["attempts"], row["subject"]) == (None, 1, ADA)
    assert row["error"] == "IntegrityError: CheckViolationError 23514 fails"
    left = [await count(owner, kept) for kept in ("users", "audit_logs", "audit_details", "outbox_events")]
    assert left == [0] * 4


async def test_event_that_cannot_be_read_says_where_and_never_what(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    unreadable = described(ADA, at=1, **PERSONAL) | {"banned": "Lovelace", "first_name": ["Ada"]}

    accepted = await deliver(container, event("user.updated", unreadable), "msg_1")

    assert not accepted.applied
    error = (await _event(owner))["error"]
    assert "banned" in error
    assert "first_name" in error
    assert "Lovelace" not in error
    assert "Ada" not in error


async def test_failed_change_of_a_known_user_takes_back_its_audit_and_its_news(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1, **PERSONAL))
    audited = await count(owner, "audit_logs")
    async with _failing(owner):
        await deliver(container, updated(ADA, at=2, **PERSONAL, banned=True), "msg_1")

    assert (await state_of(owner, ADA))["status"] == "active"
    assert await count(owner, "audit_logs") == audited
    assert await published(owner, ADA) == [("user.created", {"user_id": ADA})]


async def test_delete_that_fails_half_way_creates_nobody(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    # The user's row is created and audited before it is marked as deleted: that half has to be undone.
    await owner.execute("ALTER TABLE users ADD CONSTRAINT fails CHECK (deleted_at IS NULL) NOT VALID")
    try:
        accepted = await deliver(container, deleted(ADA, at=1), "msg_1")
    finally:
        await owner.execute("ALTER TABLE users DROP CONSTRAINT fails")

    assert not accepted.applied
    left = [await count(owner, table) for table in ("users", "audit_logs", "audit_details", "outbox_events")]
    assert left == [0] * 4


async def test_failing_event_is_tried_by_the_backoff_and_then_parked(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    waits: list[timedelta | None] = []
    async with _failing(owner):
        await deliver(container, updated(ADA, at=1), "msg_1")
        for _ in range(len(BACKOFF) + 1):
            now = await owner.fetchval("SELECT now()")
            due = (await _event(owner))["next_attempt_at"]
            waits.append(due and due - now)
            await _make_due(owner)
            await container.clerk.webhooks.retry_due(TESTER)
        attempts = (await _event(owner))["attempts"]

    assert attempts == len(BACKOFF) + 1
    for wait, expected in zip(waits[:-1], BACKOFF, strict=True):
        assert wait is not None
        assert expected - timedelta(seconds=4) < wait <= expected
    assert waits[-1] is None
    await container.clerk.webhooks.retry_due(TESTER)
    assert await count(owner, "users") == 0


async def test_event_is_not_tried_again_before_it_is_due(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    await _failed(container, owner)

    await container.clerk.webhooks.retry_due(TESTER)
    too_early = await count(owner, "users")
    await _make_due(owner)
    await container.clerk.webhooks.retry_due(TESTER)

    assert (too_early, await count(owner, "users")) == (0, 1)
    row = await _event(owner)
    assert (row["attempts"], row["error"], row["next_attempt_at"], row["applied_at"] is None) == (2, None, None, False)


async def test_event_that_another_process_tries_is_left_to_it(
    container: Container, owner: "Owner[asyncpg.Record]", servers: Servers, database_name: str
) -> None:
    held = await _failed(container, owner, "msg_held")
    async with _failing(owner):
        await deliver(container, updated("user_free", at=1), "msg_free")
    await _make_due(owner)
    other = await asyncpg.connect(servers.owner_url(database_name))
    try:
        async with other.transaction():
            await other.execute("SELECT FROM webhook_events WHERE id = $1 FOR UPDATE", held)
            await asyncio.wait_for(container.clerk.webhooks.retry_due(TESTER), timeout=10)
            free, waiting = await _event(owner, "msg_free"), await _event(owner, "msg_held")
    finally:
        await other.close()

    assert free["applied_at"] is not None
    assert (waiting["applied_at"], waiting["attempts"]) == (None, 1)


async def test_event_tried_by_two_workers_at_once_has_one_effect(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await _failed(container, owner)
    await _make_due(owner)

    await asyncio.gather(*(container.clerk.webhooks.retry_due(TESTER) for _ in range(4)))

    assert (await _event(owner))["attempts"] == 2
    assert await published(owner, ADA) == [("user.created", {"user_id": ADA})]


async def test_event_that_fails_again_does_not_hold_up_the_others(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await _failed(container, owner)
    await deliver(container, event("user.updated", {"id": "user_broken"}), "msg_broken")
    await owner.execute(
        "UPDATE webhook_events SET next_attempt_at = now() - interval '1 hour' WHERE message_id = 'msg_broken'"
    )
    await _make_due(owner)

    await container.clerk.webhooks.retry_due(TESTER)

    assert (await _event(owner))["applied_at"] is not None
    assert (await _event(owner, "msg_broken"))["attempts"] == 2


async def test_stored_event_that_is_no_event_any_more_does_not_hold_up_the_others(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await _failed(container, owner)
    async with _failing(owner):
        await deliver(container, updated("user_old", at=1), "msg_old")
    await _make_due(owner)
    await owner.execute(
        "UPDATE webhook_events SET next_attempt_at = now() - interval '1 hour',"
        """ payload = '{"type": "user.updated"}' WHERE message_id = 'msg_old'"""
    )

    await container.clerk.webhooks.retry_due(TESTER)

    assert (await _event(owner))["applied_at"] is not None
    old = await _event(owner, "msg_old")
    assert (old["applied_at"], old["attempts"]) == (None, 2)


async def test_replay_of_an_applied_event_changes_nothing(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    await deliver(container, updated(ADA, at=1, first_name="Ada"), "msg_1")
    await deliver(container, updated(ADA, at=2, first_name="Augusta"))
    before, audited = await state_of(owner, ADA), await count(owner, "audit_logs")

    applied = await container.clerk.webhooks.replay(TESTER, (await _event(owner))["id"])

    assert applied
    assert await state_of(owner, ADA) == before
    assert await count(owner, "audit_logs") == audited


async def test_replay_of_a_failed_event_does_not_wait_until_it_is_due(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    failed = await _failed(container, owner)

    assert await container.clerk.webhooks.replay(TESTER, failed)

    assert (await state_of(owner, ADA))["first_name"] == "Ada"
    assert (await _event(owner))["next_attempt_at"] is None


async def test_replay_of_a_parked_event_is_its_way_out(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    parked = await _failed(container, owner)
    await owner.execute("UPDATE webhook_events SET next_attempt_at = NULL, attempts = 8")

    async with _failing(owner):
        still_failing = await container.clerk.webhooks.replay(TESTER, parked)
        row = await _event(owner)
    applied = await container.clerk.webhooks.replay(TESTER, parked)

    assert (still_failing, row["attempts"], row["next_attempt_at"]) == (False, 9, None)
    assert applied
    assert await count(owner, "users") == 1


async def test_replay_of_what_was_erased_or_never_came_is_not_found(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1, **PERSONAL), "msg_1")
    await deliver(container, deleted(ADA, at=2))
    await owner.execute("UPDATE users SET deleted_at = now() - interval '31 days'")
    await container.users.erasure.erase_due(TESTER)

    for event_id in ((await _event(owner))["id"], uuid4()):
        with pytest.raises(NotFoundError):
            await container.clerk.webhooks.replay(TESTER, event_id)

    assert (await _event(owner))["attempts"] == 1
    assert await count(owner, "users") == 0


async def test_replay_is_seen_at_once_by_the_process_that_did_it(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1))
    async with _failing(owner):
        await deliver(container, updated(ADA, at=2, banned=True), "msg_1")
    visit = await journey.client.get("/users/me", headers=journey.headers_of(ADA))

    await container.clerk.webhooks.replay(TESTER, (await _event(owner))["id"])
    refused = await journey.client.get("/users/me", headers=journey.headers_of(ADA))

    assert visit.status_code == 200
    assert_problem(refused, 403, "user_inactive")


async def test_postgres_that_goes_away_during_the_effect_is_503_and_leaves_no_row(
    journey: Journey, owner: "Owner[asyncpg.Record]", servers: Servers, database_name: str
) -> None:
    clerk = journey.sandbox.clerk
    ada = await journey.sign_up()
    banned = clerk.ban_user(ada.id)
    holder = await asyncpg.connect(servers.superuser_url(database_name))
    try:
        async with holder.transaction():
            # The event is stored, and its effect waits for this row, when its connection dies.
            await holder.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", ada.id)
            telling = asyncio.create_task(journey.webhook("user.updated", banned, message_id="msg_1"))
            await _cut_off_whoever_waits(holder)
            response = await asyncio.wait_for(telling, timeout=10)
    finally:
        await holder.close()
    again = await journey.webhook("user.updated", banned, message_id="msg_1")

    assert_problem(response, 503, "database_unavailable")
    assert again.json() == {"duplicate": False, "applied": True}
    assert (await state_of(owner, ada.id))["status"] == "suspended"


async def _cut_off_whoever_waits(holder: "Owner[asyncpg.Record]") -> None:
    """Terminate the session that waits for a lock of `holder`, as soon as one does."""
    waiting = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    async with asyncio.timeout(10):
        while not await holder.fetch(waiting):
            """Each query is a round trip, during which other tasks go on."""
