"""Tests that a claim of a delivery reads only a few rows, even if 100,000 deliveries are due to one subscription, as
the plan of its query shows."""

from typing import Final
from uuid import UUID

import pytest

from services.conftest import Servers
from services.user_management.queries import webhook_delivery
from services.user_management.tests.query_plans import Plan
from services.user_management.tests.test_queries_use_indexes import recording

pytestmark = pytest.mark.slow

BACKLOG: Final = 100_000
MANY: Final = UUID(int=1)
"""The subscription with the backlog, whose deliveries may be sent."""
OTHER: Final = UUID(int=2)
"""A subscription with one delivery, which is due last of all."""
SHUT_OUT: Final = UUID(int=3)
"""The subscription of a disabled service, with a backlog of the same size."""
ROWS: Final = f"""
INSERT INTO users (id, email_verified, status, onboarding_completed, local_fields, version, created_at, updated_at)
VALUES ('user_x', false, 'active', false, '[]', 1, now(), now());
INSERT INTO service_clients (id, name, permissions, created_at, disabled_at)
VALUES ('{UUID(int=9)}', 'shut-out', '[]', now(), now());
INSERT INTO webhook_subscriptions (id, client_id, created_by, url, event_types, secret_ciphertext, secret_key_version,
                                   status, last_sequence, version, created_at, updated_at)
SELECT id, client, 'user_x', 'x', '[]', 'x', 1, 'active', 1, 1, now(), now()
FROM (VALUES (uuid '{MANY}', NULL), ('{OTHER}', NULL), ('{SHUT_OUT}', uuid '{UUID(int=9)}')) AS s (id, client);
INSERT INTO webhook_deliveries (id, subscription_id, event_id, event_type, sequence, body, state, attempts, created_at,
                                next_attempt_at)
SELECT gen_random_uuid(), s, gen_random_uuid(), 'x', n, '', 'pending', 0, now(), now() - interval '1 hour'
FROM unnest(ARRAY[uuid '{MANY}', '{SHUT_OUT}']) AS s, generate_series(1, {BACKLOG}) AS n
UNION ALL
SELECT gen_random_uuid(), '{OTHER}', gen_random_uuid(), 'x', 1, '', 'pending', 0, now(), now();
ANALYZE users, webhook_subscriptions, webhook_deliveries, service_clients
"""  # noqa: S608 - constants alone


async def test_claim_among_many_that_are_due_looks_at_a_few_of_them(
    clean_database: None, servers: Servers, database_name: str
) -> None:
    cases: dict[str, list[UUID]] = {
        "nobody is busy": [],
        "whose backlog it is is busy": [MANY],
        "all are busy": [MANY, OTHER],
    }
    looked_at: dict[str, int] = {}
    claimed: dict[str, UUID | None] = {}

    async with recording(servers.owner_url(database_name)) as (connection, sent):
        for statement in ROWS.split(";"):
            await connection.exec_driver_sql(statement)
        for name, busy in cases.items():
            delivery = await webhook_delivery.claim_due(
                connection, admins=["user_x"], busy=busy, healthy_only=False, lease_seconds=30
            )
            claimed[name] = None if delivery is None else delivery.subscription_id
            statement, parameters = sent[-1]
            await connection.exec_driver_sql("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE sequence = 1")
            explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            looked_at[name] = Plan.of_json(explained.scalar_one()).rows_looked_at()

    assert claimed == {"nobody is busy": MANY, "whose backlog it is is busy": OTHER, "all are busy": None}
    excessive = {name: rows for name, rows in looked_at.items() if rows > 10}
    assert excessive == {}
