"""Rows for the tables that grow, so that Postgres plans queries as in a database in use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

USERS: Final = """
INSERT INTO users (id, email, email_normalized, email_verified, first_name_normalized, last_name_normalized, status,
                   onboarding_completed, local_fields, version, created_at, updated_at, deleted_at)
SELECT 'user_' || n, 'x', md5('e' || n) || '@example.com', true, md5('f' || n), md5('l' || n),
       CASE WHEN n % 50 = 0 THEN 'suspended' ELSE 'active' END, false, '[]', 1,
       timestamptz '2024-01-01Z' + n * interval '1 minute', now(), CASE WHEN n % 10 = 0 THEN now() END
FROM generate_series(1, {rows}) AS n
"""
OTHER_TABLES: Final = """
INSERT INTO user_identities (issuer, subject, user_id, created_at)
SELECT 'x', id, id, now() FROM users;
INSERT INTO sign_ins (issuer, session_id, user_id, started_at)
SELECT 'x', id, id, created_at FROM users;
INSERT INTO integrations
    (id, user_id, provider, provider_account_id, is_primary, status, status_changed_at, granted_scopes, token_version,
     refresh_attempts, refresh_failures, refresh_due_at, refresh_issued_at, connected_at, version, created_at,
     updated_at)
SELECT gen_random_uuid(), id, 'x', '1', true, 'active', now(), '[]', 1, 0, 0, now() + random() * interval '1 day',
       now(), now(), 1, now(), now() FROM users;
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at, expires_at)
SELECT gen_random_uuid(), id, kind, ''::bytea, 1, refresh_issued_at, refresh_due_at
FROM integrations, (VALUES ('access'), ('refresh')) AS kinds (kind) WHERE provider = 'x';
INSERT INTO webhook_events (id, source, message_id, event_type, payload, received_at, applied_at, subject, attempts)
SELECT gen_random_uuid(), 'x', id, 'user.created', '{}', now(), now(), id, 1 FROM users;
INSERT INTO outbox_events (id, event_type, subject, payload, occurred_at, published_at)
SELECT gen_random_uuid(), 'user.created', id, '{}', now(), now() FROM users;
INSERT INTO webhook_subscriptions (id, created_by, url, event_types, secret_ciphertext, secret_key_version, status,
                                   last_sequence, version, created_at, updated_at)
SELECT gen_random_uuid(), 'x', 'x', '[]', 'x', 1, 'active', 1, 1, now(), now() FROM generate_series(1, 40);
INSERT INTO webhook_deliveries (id, subscription_id, event_id, event_type, sequence, body, state, attempts, created_at,
                                next_attempt_at)
SELECT gen_random_uuid(), s.id, gen_random_uuid(), 'x', n, '', CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'delivered' END,
       1, now(), now() FROM webhook_subscriptions s, generate_series(1, 100) AS n;
INSERT INTO job_runs (id, job, slot, owner, lease_until, attempts, started_at, finished_at)
SELECT gen_random_uuid(), 'x', created_at, gen_random_uuid(), created_at, 1, created_at, created_at FROM users;
INSERT INTO oauth_flows
    (id, user_id, provider, state_hash, status, requested_scopes, redirect_uri, return_url, created_at, expires_at)
SELECT gen_random_uuid(), id, 'x', sha256(id::bytea), 'pending', '[]', 'x', 'x', created_at, created_at FROM users;
INSERT INTO token_revocations
    (id, integration_id, user_id, provider, provider_account_id, kind, state, attempts, requested_at, finished_at)
SELECT gen_random_uuid(), id, user_id, 'x', '1', 'refresh', 'done', 1, now(), now() FROM integrations;
INSERT INTO token_reads (id, read_at, client_id, key_id, user_id, provider, outcome, scopes, request_id)
SELECT ids.id, now(), gen_random_uuid(), 'x', users.id, 'x', 'granted', '[]', 'x'
FROM users, LATERAL (VALUES (gen_random_uuid()), ({this_month})) AS ids (id);
INSERT INTO erased_subjects (subject_hash, erased_at) SELECT sha256(id::bytea), now() FROM users;
INSERT INTO service_clients (id, name, permissions, created_at)
SELECT gen_random_uuid(), 'x-' || id, '[]', now() FROM users;
INSERT INTO service_keys (id, client_id, secret_hash, created_at)
SELECT left(md5(name), 12), id, sha256(name::bytea), now() FROM service_clients WHERE name ~ '^x-';
INSERT INTO service_grants (id, client_id, provider, reason_required, created_at)
SELECT gen_random_uuid(), id, 'x', false, now() FROM service_clients WHERE name ~ '^x-';
ANALYZE webhook_subscriptions, webhook_deliveries;
ANALYZE users, user_identities, sign_ins, integrations, encrypted_tokens, webhook_events, outbox_events, job_runs,
    oauth_flows, token_revocations, token_reads, erased_subjects, service_clients, service_keys, service_grants
"""
ROWS: Final = 4000
THIS_MONTH: Final = """
(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '7' || substr(md5(users.id), 1, 3)
 || '8' || substr(md5(users.id), 4, 15))::uuid
"""
"""SQL for a UUID of version 7 (RFC 9562 section 5.7) with the present time. Rows with it lie in the partition of this
month; those with random ids lie in the default partition."""


@asynccontextmanager
async def filled(owner: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """For the length of the block, fill the tables that grow, in a transaction of `owner` that is rolled back at its
    end. On empty tables the planner considers all indexes equally good. Full table scans, which are right for small
    tables, are discouraged."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(USERS.format(rows=ROWS))
        await owner.execute(OTHER_TABLES.replace("{this_month}", THIS_MONTH))
        await owner.execute("SET LOCAL enable_seqscan = off")
        yield
    finally:
        await transaction.rollback()
