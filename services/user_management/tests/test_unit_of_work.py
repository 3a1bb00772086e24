"""Tests of units of work: a change is committed with its audit rows and events or not at all; an error that was marked
by `keep` is raised after the commit; nothing is written outside of one."""

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from services.user_management.container import Container
from services.user_management.core.ids import uuid7
from services.user_management.exceptions import ConflictError
from services.user_management.models import ServiceClient
from services.user_management.schemas.events import UserUpdated
from services.user_management.tests.actors import TESTER

Owner = asyncpg.Connection
pytestmark = pytest.mark.usefixtures("clean_database")


async def counts(owner: "Owner[asyncpg.Record]") -> tuple[int, int, int]:
    """Count the rows of (service_clients, audit_logs, outbox_events)."""
    row = await owner.fetchrow(
        "SELECT (SELECT count(*) FROM service_clients), (SELECT count(*) FROM audit_logs),"
        " (SELECT count(*) FROM outbox_events)"
    )
    assert row is not None
    return tuple(row)


async def change(container: Container, *, error: Exception | None = None, keep: bool = False) -> None:
    async with container.resources.unit_of_work(TESTER) as uow:
        await ServiceClient.objects.create(id=uuid7(), name="x", permissions=[], created_at=uow.clock.now())
        uow.audit("thing.changed", target=("thing", "1"), user_id=None, changes={"name": ["a", "b"]})
        uow.publish(UserUpdated(user_id="user_x", changed=["email"]))
        if error is not None:
            raise uow.keep(error) if keep else error


async def test_change_is_committed_with_its_audit_and_outbox_rows(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await change(container)

    assert await counts(owner) == (1, 1, 1)
    assert await owner.fetchval("SELECT changes FROM audit_details") == '{"name": ["a", "b"]}'


async def test_error_rolls_everything_back(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    with pytest.raises(ConflictError):
        await change(container, error=ConflictError())

    assert await counts(owner) == (0, 0, 0)


async def test_kept_error_is_raised_after_the_commit(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    with pytest.raises(ConflictError):
        await change(container, error=ConflictError(), keep=True)

    assert await counts(owner) == (1, 1, 1)


async def test_unit_inside_a_unit_is_refused(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    with pytest.raises(RuntimeError, match="unit of work inside a unit of work"):
        async with container.resources.unit_of_work(TESTER):
            await change(container)

    assert await counts(owner) == (0, 0, 0)


async def test_write_outside_a_unit_is_refused_by_the_database(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await ServiceClient.objects.create(
            id=uuid7(), name="x", permissions=[], created_at=container.resources.clock.now()
        )

    assert await counts(owner) == (0, 0, 0)


@pytest.mark.parametrize("table", ["audit_logs", "audit_details", "token_reads"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_runtime_role_cannot_change_the_record(container: Container, table: str, statement: str) -> None:
    async with container.resources.database.door.acquire() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(table))
