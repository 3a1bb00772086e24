"""Tests of how the slots of periodic jobs are worked on, and of the jobs that relay the outbox, refresh tokens, and
maintain partitions and delete old rows."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.container import Container
from services.user_management.core.clock import SystemClock
from services.user_management.core.context import current_context
from services.user_management.core.ids import uuid7
from services.user_management.core.principal import Principal
from services.user_management.enums import JobName
from services.user_management.models import ServiceClient
from services.user_management.services.slice_time import SliceTime
from services.user_management.services.table_upkeep import Pruning
from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey

Owner = asyncpg.Connection
DAY = 86_400.0
pytestmark = pytest.mark.usefixtures("clean_database")


async def test_slot_is_worked_once_by_20_ticks_at_once(container: Container) -> None:
    worked = 0

    async def work(_actor: Principal, _cursor: Any) -> None:
        nonlocal worked
        worked += 1
        await asyncio.sleep(0.05)

    ran = await asyncio.gather(
        *(container.jobs.runner.run(JobName.RELAY_OUTBOX, period_seconds=DAY, work=work) for _ in range(20))
    )

    assert (sum(ran), worked) == (1, 1)


async def test_slice_that_is_not_done_goes_on_from_its_cursor(container: Container) -> None:
    cursors: list[Any] = []

    async def work(_actor: Principal, cursor: Any) -> Any:
        cursors.append(cursor)
        return {"page": len(cursors)} if len(cursors) < 5 else None

    ran = [await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work) for _ in range(7)]

    assert ran == [True] * 5 + [False] * 2
    assert cursors == [None, {"page": 1}, {"page": 2}, {"page": 3}, {"page": 4}]


async def test_failing_slot_is_tried_three_times_and_keeps_its_error(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    async def work(_actor: Principal, _cursor: Any) -> None:
        raise ValueError("broken on purpose")

    for _ in range(3):
        with pytest.raises(ValueError, match="broken on purpose"):
            await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work)
    ran = await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work)

    assert ran is False
    row = await owner.fetchrow("SELECT attempts, error, finished_at FROM job_runs")
    assert row is not None
    assert (row["attempts"], row["error"]) == (3, "ValueError: broken on purpose")
    assert row["finished_at"] is not None


async def test_failing_slot_keeps_nothing_of_the_row_that_postgres_quotes(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    async def work(actor: Principal, _cursor: Any) -> None:
        async with container.resources.unit_of_work(actor) as uow:
            for _ in range(2):
                await ServiceClient.objects.create(
                    id=uuid7(), name="line one\nline two", permissions=[], created_at=uow.clock.now()
                )

    with pytest.raises(IntegrityError):
        await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work)

    error = await owner.fetchval("SELECT error FROM job_runs")
    assert error == "IntegrityError: UniqueViolationError 23505 uc_service_clients_name"


async def test_slot_of_a_dead_worker_is_taken_over_when_its_lease_ends(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    async def die(_actor: Principal, _cursor: Any) -> None:
        raise asyncio.CancelledError

    async def work(_actor: Principal, _cursor: Any) -> None:
        return None

    with pytest.raises(asyncio.CancelledError):
        await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=die)
    while_leased = await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work)
    await owner.execute("UPDATE job_runs SET lease_until = now() - interval '1 second'")
    after_lease = await container.jobs.runner.run(JobName.SWEEP_LEASES, period_seconds=DAY, work=work)

    assert (while_leased, after_lease) == (False, True)


async def test_job_acts_as_itself_and_leaves_no_context_behind(container: Container) -> None:
    seen: list[str] = []

    async def work(actor: Principal, _cursor: Any) -> None:
        seen.extend([actor.id, current_context().actor.id])

    await container.jobs.runner.run(JobName.RELAY_OUTBOX, period_seconds=DAY, work=work)

    assert seen == ["relay_outbox", "relay_outbox"]
    assert current_context().actor.id == "anonymous"


async def test_relay_appends_events_in_order_and_only_once(journey: Journey, container: Container) -> None:
    stream = container.resources.settings.redis.stream
    await container.resources.redis.delete(stream)
    people = [await journey.sign_up(f"p{number}@example.com") for number in range(3)]

    await container.events.outbox.relay(TESTER)
    await container.events.outbox.relay(TESTER)

    entries: Any = await container.resources.redis.xrange(stream)
    assert [fields["subject"] for _, fields in entries] == [person.id for person in people]
    assert {fields["type"] for _, fields in entries} == {"user.created"}
    assert all("example.com" not in str(fields) for _, fields in entries)


async def test_relay_finds_an_event_that_was_committed_late(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    stream = container.resources.settings.redis.stream
    await container.resources.redis.delete(stream)
    await journey.sign_up("early@example.com")
    await journey.sign_up("late@example.com")
    await owner.execute(
        "UPDATE outbox_events SET published_at = now() WHERE seq = (SELECT max(seq) FROM outbox_events)"
    )

    await container.events.outbox.relay(TESTER)

    assert await container.resources.redis.xlen(stream) == 1


async def test_due_tokens_are_refreshed_before_they_run_out(journey: Journey, container: Container) -> None:
    ada = await journey.sign_up()
    await journey.connect(ada)
    await journey.age_tokens(seconds_left=600)

    left = await container.tokens.refresh_jobs.refresh_due(TESTER)

    assert left is None
    assert journey.sandbox.ledger.count(party="oidc:static", operation="token.refresh") == 1
    key = await journey.service_key()
    token = (await journey.get_token(key, ada.id)).json()
    assert token["refreshed"] is False
    assert token["expires_in"] > 3500


async def test_run_refreshes_each_connection_once_even_when_new_tokens_are_short_lived(
    journey: Journey, container: Container
) -> None:
    await journey.connect(await journey.sign_up())
    await journey.age_tokens(seconds_left=600)

    await container.tokens.refresh_jobs.refresh_due(TESTER)
    await container.tokens.refresh_jobs.refresh_due(TESTER)

    assert journey.sandbox.ledger.count(operation="token.refresh") == 1


async def test_token_with_a_long_life_left_is_not_refreshed(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await journey.connect(await journey.sign_up())
    await owner.execute("UPDATE encrypted_tokens SET expires_at = now() + interval '3 hours' WHERE kind = 'access'")

    await container.tokens.refresh_jobs.refresh_due(TESTER)

    assert journey.sandbox.ledger.count(operation="token.refresh") == 0


async def test_sweeper_refreshes_what_a_dead_process_left(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await journey.connect(await journey.sign_up())
    await owner.execute(
        "UPDATE integrations SET refresh_attempts = 1, refresh_lease_until = now() - interval '1 second',"
        " refresh_lease_owner = gen_random_uuid()"
    )

    await container.tokens.refresh_jobs.sweep(TESTER)

    row = await owner.fetchrow("SELECT refresh_attempts, token_version, status FROM integrations")
    assert row is not None
    assert tuple(row) == (0, 2, "active")


async def test_maintenance_makes_the_partitions_of_coming_months(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    now = datetime.now(UTC)
    next_month = f"{now.year + now.month // 12}{now.month % 12 + 1:02d}"
    partition = f"token_reads_p{next_month}"
    await owner.execute(f"DROP TABLE {partition}")

    await container.jobs.upkeep.maintain_tables(TESTER, None)

    assert await owner.fetchval("SELECT to_regclass($1) IS NOT NULL", partition)


async def test_maintenance_forgets_old_runs_and_connect_attempts(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await journey.sign_up()
    await journey.authorize(ada)
    await journey.authorize(ada)
    await owner.execute(
        "UPDATE oauth_flows SET expires_at = now() - interval '25 hours'"
        " WHERE id = (SELECT min(id::text)::uuid FROM oauth_flows)"
    )

    await container.jobs.upkeep.maintain_tables(TESTER, None)

    assert await owner.fetchval("SELECT count(*) FROM oauth_flows") == 1


async def test_maintenance_removes_rows_in_batches_and_slices(
    container: Container, owner: "Owner[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await owner.execute(
        "INSERT INTO job_runs (id, job, slot, owner, lease_until, attempts, started_at)"
        " SELECT gen_random_uuid(), 'old', now() - n * interval '1 hour', gen_random_uuid(), now(), 1,"
        " now() - interval '3 days' FROM generate_series(1, 7) AS n"
    )
    monkeypatch.setattr("services.user_management.services.table_upkeep.BATCH", 2)
    upkeep = container.jobs.upkeep
    left = [7]
    cursors: list[int | None] = [None]

    for _ in range(4):
        looks = iter([False, True])
        monkeypatch.setattr(upkeep, "start_slice", lambda looks=looks: SliceTime(SystemClock(), looks.__next__))
        cursors.append(await upkeep.maintain_tables(TESTER, cursors[-1]))
        left.append(await owner.fetchval("SELECT count(*) FROM job_runs"))

    assert left == [7, 5, 3, 1, 0]
    assert cursors == [None, 0, 0, 0, 1]


async def test_maintenance_goes_on_after_rows_that_cannot_be_removed(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await journey.authorize(await journey.sign_up())
    await owner.execute("UPDATE oauth_flows SET expires_at = now() - interval '25 hours'")

    async def fail(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
        await connection.execute(sa.text("SELECT 1 / 0"))
        return limit

    upkeep = container.jobs.upkeep
    monkeypatch.setattr(upkeep, "prunings", [Pruning(timedelta(), fail), *upkeep.prunings])

    cursor = await upkeep.maintain_tables(TESTER, None)

    assert cursor is None
    assert await owner.fetchval("SELECT count(*) FROM oauth_flows") == 0
