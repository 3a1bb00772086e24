"""The answers to a caller when the database fails."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.user_management.database import driver_url, role_of, sqlalchemy_url
from services.user_management.tests.scenes import Connected, assert_problem

GIVES_WAY = """
CREATE FUNCTION gives_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'given up for another transaction' USING ERRCODE = '{sqlstate}';
END $$;
CREATE TRIGGER gives_way BEFORE UPDATE ON integrations FOR EACH ROW EXECUTE FUNCTION gives_way();
"""


@pytest.fixture
async def victim(connected: Connected, sqlstate: str) -> AsyncIterator[Connected]:
    """An integration whose row cannot be changed: Postgres gives every such transaction up."""
    owner: asyncpg.Connection[asyncpg.Record] = connected.journey.owner
    await owner.execute(GIVES_WAY.format(sqlstate=sqlstate))
    yield connected
    await owner.execute("DROP TRIGGER gives_way ON integrations; DROP FUNCTION gives_way")


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
async def test_transaction_that_gave_way_to_another_is_to_be_tried_again(victim: Connected) -> None:
    path = f"/users/me/integrations/{victim.provider}"

    response = await victim.journey.client.patch(path, headers=victim.headers, json={"metadata": {"label": "work"}})

    assert_problem(response, 503, "database_unavailable")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("sqlstate", ["P0001"])
async def test_statement_that_is_wrong_is_our_fault(victim: Connected) -> None:
    path = f"/users/me/integrations/{victim.provider}"

    response = await victim.journey.client.patch(path, headers=victim.headers, json={"metadata": {"label": "work"}})

    assert_problem(response, 500, "internal_error")


ONE_FORM = "app:pw@/users?host=a%2Cb&port=5432%2C5433"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:pw@a,b:5433/users",
        "postgresql://app:pw@a:5432,b:5433/users",
        "postgresql://app:pw@/users?host=a:5432&host=b:5433",
        "postgresql://app:pw@/users?host=a,b&port=5432,5433",
    ],
)
def test_several_hosts_have_one_form_that_both_drivers_know(url: str) -> None:
    assert driver_url(url) == f"postgresql://{ONE_FORM}"
    assert sqlalchemy_url(url) == f"postgresql+asyncpg://{ONE_FORM}"
    assert role_of(url) == "app"
