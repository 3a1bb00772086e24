"""Tests of the migrations: all at once and one by one, up and down; with one role for everything; over rows of earlier
releases and a half-built index; and no drift between models and database."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import pytest
from alembic import command
from alembic.config import Config

from services.conftest import Servers, migrate
from services.user_management.cli.database import alembic_config

SCHEMA = """
SELECT string_agg(line, chr(10) ORDER BY line) FROM (
    SELECT format('%s %s %s %s', table_name, column_name, data_type, is_nullable) AS line
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT format('%s %s %s', grantee, table_name, privilege_type)
    FROM information_schema.role_table_grants WHERE table_schema = 'public'
) AS lines
"""


def query(url: str, *statements: str) -> object:
    """Run statements one after another; return the first value that the last one selects."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def database(servers: Servers, worker_name: str) -> Iterator[str]:
    """Make an empty database that belongs to the owner role for one test, and yield its name."""
    name = f"test_migrations_{worker_name}"
    administration = servers.superuser_url("postgres")
    query(administration, f"DROP DATABASE IF EXISTS {name}")
    query(administration, f"CREATE DATABASE {name} OWNER user_management_owner")
    yield name
    query(administration, f"DROP DATABASE {name} WITH (FORCE)")


def configuration(servers: Servers, database: str) -> Config:
    config = alembic_config()
    config.attributes["url"] = servers.owner_url(database)
    config.attributes["runtime_url"] = servers.url(database)
    return config


def test_upgrade_downgrade_upgrade_gives_the_same_schema(servers: Servers, database: str) -> None:
    migrate(servers, database, "head")
    first = query(servers.owner_url(database), SCHEMA)
    migrate(servers, database, "base")
    left = query(servers.owner_url(database), SCHEMA)
    migrate(servers, database, "head")

    assert left is not None
    assert "alembic_version" in str(left)
    assert "users" not in str(left)
    assert query(servers.owner_url(database), SCHEMA) == first


def test_each_revision_can_be_taken_back_alone(servers: Servers, database: str) -> None:
    config = configuration(servers, database)

    for revision in ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011"):
        command.upgrade(config, revision)
        command.downgrade(config, "-1")
        command.upgrade(config, revision)

    command.check(config)


def test_index_over_partitions_that_was_stopped_half_way_is_finished_by_the_next_run(
    servers: Servers, database: str
) -> None:
    migrate(servers, database, "head")
    owner = servers.owner_url(database)
    query(
        owner,
        "DROP INDEX ix_token_reads_granted",
        "CREATE INDEX ix_token_reads_granted ON ONLY token_reads (integration_id, id) WHERE outcome = 'granted'",
        "CREATE INDEX token_reads_default_granted_idx ON token_reads_default (integration_id, id)"
        " WHERE outcome = 'granted'",
        "ALTER INDEX ix_token_reads_granted ATTACH PARTITION token_reads_default_granted_idx",
        "UPDATE alembic_version SET version_num = '0007'",
        "SELECT 1",
    )
    half_way = query(owner, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_token_reads_granted'::regclass")

    migrate(servers, database, "head")

    assert half_way is False
    assert query(owner, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


def test_models_and_database_do_not_drift(servers: Servers, database: str) -> None:
    migrate(servers, database, "head")

    command.check(configuration(servers, database))


def test_one_role_for_everything_is_possible(servers: Servers, database: str) -> None:
    config = alembic_config()
    config.attributes["url"] = config.attributes["runtime_url"] = servers.owner_url(database)

    command.upgrade(config, "head")
    command.downgrade(config, "base")


def test_partition_function_can_be_called_by_the_runtime_role_and_makes_nothing_twice(
    servers: Servers, database: str
) -> None:
    migrate(servers, database, "head")

    assert query(servers.url(database), "SELECT ensure_log_partitions(3)") == 0
    assert query(servers.url(database), "SELECT ensure_log_partitions(5)") == 6


OLD_ROWS = """
INSERT INTO users (id, email, email_normalized, email_verified, first_name, last_name, status, onboarding_completed,
                   local_fields, upstream_updated_at, version, created_at, updated_at)
VALUES ('user_emile', 'e@example.com', 'e@example.com', true, 'Émile  Édouard', 'ZOLA', 'suspended', false, '[]', now(),
        1, now(), now()),
       ('user_first_seen', NULL, NULL, false, NULL, NULL, 'active', false, '[]', NULL, 1, now(), now());
INSERT INTO webhook_events (id, source, message_id, event_type, payload, received_at, attempts)
VALUES (gen_random_uuid(), 'clerk', 'msg_1', 'user.updated', '{"data": {"id": "user_emile"}}', now(), 1),
       (gen_random_uuid(), 'clerk', 'msg_2', 'session.created', '{"data": {"user_id": "user_emile"}}', now(), 1)
"""
FILLED = """
SELECT json_agg(json_build_array(id, first_name_normalized, last_name_normalized, upstream_status,
                                 upstream_profile ->> 'last_name') ORDER BY id)::text FROM users
"""


def test_rows_of_before_are_filled_and_stay_filled_when_it_is_run_again(servers: Servers, database: str) -> None:
    migrate(servers, database, "head")
    migrate(servers, database, "0003")
    query(servers.owner_url(database), OLD_ROWS, "SELECT 1")
    expected = [
        ["user_emile", "emile edouard", "zola", "suspended", "ZOLA"],
        ["user_first_seen", None, None, None, None],
    ]

    for _ in range(2):
        migrate(servers, database, "head")
        filled = json.loads(str(query(servers.owner_url(database), FILLED)))
        subjects = query(
            servers.owner_url(database), "SELECT count(*) FROM webhook_events WHERE subject = 'user_emile'"
        )
        command.downgrade(configuration(servers, database), "0004")

        assert (filled, subjects) == (expected, 2)


SUBSCRIPTIONS = """
INSERT INTO encryption_keys (version, state, kdf, canary, created_at)
VALUES (1, 'active', '{}', '', now());
INSERT INTO service_clients (id, name, permissions, created_at)
VALUES (gen_random_uuid(), 'operations', '["admin"]', now());
INSERT INTO webhook_subscriptions (id, created_by, url, event_types, secret_ciphertext, secret_key_version, status,
                                   last_sequence, version, created_at, updated_at)
SELECT gen_random_uuid(), maker, 'x', '[]', 'x', 1, 'active', 1, 1, now(), now()
FROM unnest(ARRAY['operations', 'user_ada', 'long-gone']) AS maker;
UPDATE webhook_subscriptions SET status = 'disabled' WHERE created_by = 'long-gone';
INSERT INTO webhook_deliveries (id, subscription_id, event_id, event_type, sequence, body, state, attempts, created_at)
SELECT gen_random_uuid(), id, gen_random_uuid(), 'x', 1, '', 'pending', 0, now() FROM webhook_subscriptions
"""
OWNERS = """
SELECT json_object_agg(s.created_by, c.name)::text
FROM webhook_subscriptions s LEFT JOIN service_clients c ON c.id = s.client_id
"""
PARKED = """
SELECT string_agg(s.created_by, ' ')
FROM webhook_deliveries d JOIN webhook_subscriptions s ON s.id = d.subscription_id WHERE d.next_attempt_at IS NULL
"""


def test_subscription_that_a_service_made_becomes_that_service_s(servers: Servers, database: str) -> None:
    migrate(servers, database, "head")
    migrate(servers, database, "0009")
    query(servers.owner_url(database), SUBSCRIPTIONS, "SELECT 1")

    migrate(servers, database, "head")

    owners = json.loads(str(query(servers.owner_url(database), OWNERS)))
    assert owners == {"operations": "operations", "user_ada": None, "long-gone": None}
    assert query(servers.owner_url(database), PARKED) == "long-gone"


OLD_TOKENS = """
INSERT INTO users (id, email_verified, status, onboarding_completed, local_fields, version, created_at, updated_at)
VALUES ('user_emile', false, 'active', false, '[]', 1, now(), now());
INSERT INTO encryption_keys (version, state, kdf, canary, created_at) VALUES (1, 'active', 'x', '', now());
INSERT INTO integrations (id, user_id, provider, provider_account_id, is_primary, status, status_changed_at,
                          granted_scopes, token_version, refresh_attempts, refresh_failures, connected_at, version,
                          created_at, updated_at)
SELECT lpad(n::text, 32, '0')::uuid, 'user_emile', 'x', n, false, 'active', now(), '[]', 1, 0, 0, now(), 1, now(), now()
FROM generate_series(1, 3) AS n;
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at, expires_at)
SELECT gen_random_uuid(), i.id, kind, '', 1, '2026-01-01', CASE kind WHEN 'access' THEN timestamptz '2026-01-02' END
FROM integrations i, (VALUES ('access'), ('refresh')) AS kinds (kind)
WHERE kind = 'access' OR provider_account_id <> '3'
"""
DUE = "SELECT json_agg(refresh_due_at::date ORDER BY provider_account_id)::text FROM integrations"


def test_due_times_of_before_are_filled_and_follow_every_change_of_a_token(servers: Servers, database: str) -> None:
    command.upgrade(configuration(servers, database), "0010")
    owner = servers.owner_url(database)
    query(owner, OLD_TOKENS, "SELECT 1")

    migrate(servers, database, "head")
    filled = json.loads(str(query(owner, DUE)))
    # As a process of the previous release would, which knows nothing of the copied times.
    query(
        servers.url(database),
        "SET default_transaction_read_only = off",
        "UPDATE encrypted_tokens SET expires_at = '2026-01-03' WHERE kind = 'access'",
        "DELETE FROM encrypted_tokens WHERE kind = 'refresh' AND integration_id = lpad('2', 32, '0')::uuid",
        "SELECT 1",
    )

    assert filled == ["2026-01-02", "2026-01-02", None]
    assert json.loads(str(query(owner, DUE))) == ["2026-01-03", None, None]
