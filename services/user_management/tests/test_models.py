"""Tests of the tables themselves: what they refuse whoever writes to them, what goes with an erased user, the order of
ids, and partitions."""

import time
from uuid import RFC_4122

import asyncpg
import pytest

from services.user_management.core.ids import uuid7
from services.user_management.models import User, metadata
from services.user_management.queries.user_rows import UserColumns, UserRow
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

INSERT_USER = """
INSERT INTO users (id, email, email_normalized, email_verified, status, onboarding_completed, local_fields, version,
                   created_at, updated_at)
VALUES ($1, $2, lower($2), true, $3, false, '[]', 1, now(), now())
"""


async def _insert_user(journey: Journey, user_id: str, *, email: str | None = None, status: str = "active") -> None:
    await journey.owner.execute(INSERT_USER, user_id, email, status)


@pytest.mark.parametrize(
    "user_id", ["me", "", "user", "user_", "User_1", "user_a b", "user_" + "x" * 59, "user_\u00e9"]
)
async def test_user_id_of_another_shape_is_refused(journey: Journey, user_id: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="ck_users_id"):
        await _insert_user(journey, user_id)


async def test_user_of_an_unknown_status_is_refused(journey: Journey) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="ck_users_status"):
        await _insert_user(journey, "user_1", status="sleeping")


async def test_address_of_our_own_users_is_unique_among_the_living(journey: Journey) -> None:
    await _insert_user(journey, "usr_1", email="Ada@example.com")
    await _insert_user(journey, "user_clerk", email="ada@example.com")

    with pytest.raises(asyncpg.UniqueViolationError, match="uq_users_own_email"):
        await _insert_user(journey, "usr_2", email="ada@example.com")
    await journey.owner.execute("UPDATE users SET deleted_at = now() WHERE id = 'usr_1'")
    await _insert_user(journey, "usr_2", email="ada@example.com")

    assert await journey.owner.fetchval("SELECT count(*) FROM users") == 3


REFUSED: dict[str, tuple[str, type[asyncpg.PostgresError], str]] = {
    "second primary connection": (
        "INSERT INTO integrations SELECT (i2.r).* FROM (SELECT jsonb_populate_record(i, jsonb_build_object("
        "'id', gen_random_uuid(), 'provider_account_id', 'other')) AS r FROM integrations i) AS i2",
        asyncpg.UniqueViolationError,
        "uq_integrations_primary",
    ),
    "same account twice": (
        "INSERT INTO integrations SELECT (i2.r).* FROM (SELECT jsonb_populate_record(i, jsonb_build_object("
        "'id', gen_random_uuid(), 'is_primary', false)) AS r FROM integrations i) AS i2",
        asyncpg.UniqueViolationError,
        "integrations_user_id_provider",
    ),
    "unknown status": (
        "UPDATE integrations SET status = 'fine'",
        asyncpg.CheckViolationError,
        "ck_integrations_status",
    ),
    "token of an unknown kind": (
        "UPDATE encrypted_tokens SET kind = 'id'",
        asyncpg.CheckViolationError,
        "ck_encrypted_tokens_kind",
    ),
    "token under a key that is not registered": (
        "UPDATE encrypted_tokens SET key_version = 77",
        asyncpg.ForeignKeyViolationError,
        "fk_encrypted_tokens_key_version",
    ),
    "key that is still in use": (
        "DELETE FROM encryption_keys",
        asyncpg.IntegrityConstraintViolationError,  # one code before Postgres 18, another since
        "fk_encrypted_tokens_key_version",
    ),
    "second active key": (
        "INSERT INTO encryption_keys (version, state, kdf, canary, created_at) VALUES (2, 'active', 'k', 'c', now())",
        asyncpg.UniqueViolationError,
        "uq_encryption_keys_active",
    ),
    "same webhook twice": (
        "INSERT INTO webhook_events SELECT (e2.r).* FROM (SELECT jsonb_populate_record(e, jsonb_build_object("
        "'id', gen_random_uuid())) AS r FROM webhook_events e) AS e2",
        asyncpg.UniqueViolationError,
        "webhook_events_source_message_id",
    ),
    "identity of two users": (
        "INSERT INTO user_identities SELECT * FROM user_identities",
        asyncpg.UniqueViolationError,
        "pk_user_identities",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_row_that_must_not_be_is_refused_by_a_named_constraint(connected: Connected, case: str) -> None:
    statement, error, constraint = REFUSED[case]

    with pytest.raises(error) as refused:
        await connected.journey.owner.execute(statement)

    assert constraint in str(refused.value.constraint_name)


async def test_user_who_is_erased_takes_all_but_the_record_along(connected: Connected) -> None:
    owner = connected.journey.owner
    await connected.journey.authorize(connected.person)
    await connected.get()

    await owner.execute("DELETE FROM users")

    left = {table.name: await owner.fetchval(f"SELECT count(*) FROM {table.name}") for table in metadata.sorted_tables}  # noqa: S608 - our own tables
    gone = {"users", "user_identities", "user_preferences", "integrations", "encrypted_tokens", "oauth_flows"}
    assert {name for name in gone if left[name]} == set()
    assert left["audit_logs"] > 0
    assert left["token_reads"] == 1


def test_id_is_of_version_7_and_ordered_by_time_within_a_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = []
    for _ in range(50):
        made.append(uuid7())
        time.sleep(1e-6)
    after = time.time_ns() // 1_000_000

    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    assert made == sorted(made)
    assert before <= made[0].int >> 80 <= made[-1].int >> 80 <= after


@pytest.mark.parametrize("table", ["audit_logs", "audit_details", "token_reads"])
async def test_record_lies_in_the_partition_of_its_month(connected: Connected, table: str) -> None:
    await connected.get()

    month = await connected.journey.owner.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')")
    rows = await connected.journey.owner.fetch(f"SELECT DISTINCT tableoid::regclass::text AS partition FROM {table}")  # noqa: S608 - from the list above

    assert [row["partition"] for row in rows] == [f"{table}_p{month}"]


@pytest.mark.parametrize("typed", [set(UserRow.__dataclass_fields__), set(UserColumns.__annotations__)])
def test_typed_row_of_a_user_has_every_column_of_the_table(typed: set[str]) -> None:
    assert typed == set(User.ormar_config.table.columns.keys())
