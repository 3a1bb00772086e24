"""Fills a database with integrations in SQL: as many integrations as users, each with two tokens, and those at Google
with six token reads.

Of ten users one has two accounts at Google, one has an account at each of three providers, three have none, and five
have one. About every tenth integration is due for a refresh within the hour, and one in a hundred is in `needs_reauth`.
For every twenty integrations there is the revocation of a former one, which has no row any more: one revocation in
fifty is pending, the others were done at some time in the last 60 days. The ciphertexts are as long as real ones, but
cannot be decrypted.
"""

from typing import Final

from benchmarks.deployment import Deployment
from benchmarks.population import populate
from benchmarks.seeding import PROVIDER, SCOPE

USERS_IN_A_BLOCK: Final = 10
"""Size of the repeating block of users; a block has as many integrations as users."""
READS_PER_CONNECTION: Final = 6
"""Reads of each integration at Google in the last 25 days: 4.8 million records for a million integrations."""
TABLES: Final = "integrations, encrypted_tokens, token_reads, token_revocations"

# Building an index at the end is several times faster than growing it row by row. The indexes of constraints stay, as
# their rows are inserted in order.
_TAKE_AWAY: Final = """
CREATE TEMPORARY TABLE put_back (statement text);
DO $$ DECLARE part record; BEGIN
    FOR part IN
        SELECT indexrelid::regclass AS name, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') AS definition
        FROM pg_index
        WHERE indrelid IN ({tables}) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    LOOP
        INSERT INTO put_back VALUES (part.definition);
        EXECUTE format('DROP INDEX %s', part.name);
    END LOOP;
END $$;
-- Whose references are right by construction: a million checks, each for itself, take longer than the rows.
SET session_replication_role = replica;
SET maintenance_work_mem = '256MB';
"""
_PUT_BACK: Final = """
DO $$ DECLARE part record; BEGIN
    FOR part IN SELECT statement FROM put_back LOOP
        EXECUTE part.statement;
    END LOOP;
END $$;
"""
_FUNCTIONS: Final = """
CREATE FUNCTION pg_temp.uuid7(made_at timestamptz, lot text) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex((extract(epoch FROM made_at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(lot), 1, 3) || '8' || substr(md5(lot), 4, 15))::uuid
$$;
-- As the vault lays it out: format and key version, nonce, as many bytes as the token has, tag.
CREATE FUNCTION pg_temp.sealed(lot text, key_version integer, size integer) RETURNS bytea LANGUAGE sql AS $$
    SELECT '\\x01'::bytea || int4send(key_version)
           || substr(decode(repeat(md5(lot), (12 + size + 16) / 16 + 1), 'hex'), 1, 12 + size + 16)
$$;
"""
_CONNECTIONS: Final = """
SELECT setseed({seed});
INSERT INTO integrations (
    id, user_id, provider, provider_account_id, account_email, is_primary, status, status_reason, status_changed_at,
    granted_scopes, requested_scopes, token_version, refresh_attempts, refresh_failures, refresh_due_at,
    refresh_issued_at, last_refresh_at,
    last_checked_at, clock_skew_seconds, connected_at, version, created_at, updated_at)
SELECT pg_temp.uuid7(created_at, provider || account_id), user_id, provider, account_id,
       account_id || '@example.com', is_primary,
       CASE WHEN is_dead THEN 'needs_reauth' ELSE 'active' END, CASE WHEN is_dead THEN 'grant_refused' END, created_at,
       scopes, scopes, 1, 0, 0,
       CASE WHEN is_dead THEN now() - interval '300 days' * random()
            WHEN row_number() OVER (ORDER BY created_at, provider, account_id) % 10 = 5
            THEN now() + interval '1 hour' * random()
            ELSE now() + interval '7 days' + interval '1 hour' * random() END,
       now() - interval '2 hours', now() - interval '2 hours', now() - interval '15 minutes' * random(), 0, created_at,
       1, created_at, now()
FROM (
    SELECT users.id AS user_id, users.created_at, provider, is_primary, n % 100 = 6 AS is_dead,
           'account-' || users.id || CASE WHEN is_primary THEN '' ELSE '-2' END AS account_id,
           CASE provider WHEN '{provider}' THEN '["email", "{scope}", "openid"]' ELSE '["email", "openid"]' END::jsonb
               AS scopes
    FROM (SELECT id, created_at, row_number() OVER (ORDER BY created_at) AS n FROM users) AS users
    JOIN (VALUES (0, 'google', true), (0, 'google', false),
                 (1, 'google', true), (1, 'microsoft', true), (1, 'github', true),
                 (5, 'google', true), (6, 'google', true), (7, 'google', true), (8, 'google', true),
                 (9, 'google', true)) AS held (place, provider, is_primary) ON place = n % 10
    ORDER BY users.id, provider, account_id
) AS connections;
"""
# An integration in `needs_reauth` keeps the tokens that it had; a due token was issued in an earlier hour. The triggers
# that copy both times from the access token to the integration are off, so the token takes them from the integration.
_TOKENS: Final = """
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at, expires_at)
SELECT pg_temp.uuid7(refresh_issued_at, kind || id), id, kind, pg_temp.sealed(kind || id, version, size), version,
       refresh_issued_at, CASE WHEN kind = 'access' THEN refresh_due_at END
FROM (SELECT id, refresh_due_at, refresh_issued_at FROM integrations ORDER BY id) AS connections
CROSS JOIN (VALUES ('access', 220), ('refresh', 104)) AS kinds (kind, size)
CROSS JOIN (SELECT version FROM encryption_keys WHERE state = 'active') AS key;
"""
_READS: Final = """
INSERT INTO token_reads (
    id, read_at, client_id, key_id, user_id, provider, integration_id, outcome, scopes, request_id)
SELECT pg_temp.uuid7(read_at, read_at::text || id), read_at, client_id, key_id, user_id, provider, id, 'granted',
       '["{scope}"]', md5(id::text)
FROM (
    -- Round by round, as they came: the reads of one connection lie far apart.
    SELECT i.id, i.user_id, i.provider, now() - interval '25 days' * (1 - (round - 1 + random()) / {reads}) AS read_at
    FROM generate_series(1, {reads}) AS round CROSS JOIN integrations i
    WHERE i.provider = '{provider}' ORDER BY read_at
) AS reads
CROSS JOIN (SELECT k.id AS key_id, k.client_id FROM service_keys k LIMIT 1) AS key;
"""
_REVOCATIONS: Final = """
INSERT INTO token_revocations (
    id, integration_id, user_id, provider, provider_account_id, kind, ciphertext, key_version, state, attempts,
    next_attempt_at, requested_at, finished_at)
SELECT pg_temp.uuid7(asked_at, 'revocation' || n), gen_random_uuid(), user_id, '{provider}', 'former-' || n, 'refresh',
       CASE WHEN waits THEN pg_temp.sealed('revocation' || n, version, 104) END, CASE WHEN waits THEN version END,
       CASE WHEN waits THEN 'pending' ELSE 'done' END, 1, CASE WHEN waits THEN now() + interval '12 hours' END,
       asked_at, CASE WHEN waits THEN NULL ELSE asked_at END
FROM (
    SELECT user_id, n, n % 1000 = 0 AS waits, now() - interval '60 days' * random() AS asked_at
    FROM (SELECT user_id, row_number() OVER (ORDER BY id) AS n FROM integrations) AS connections
    WHERE n % 20 = 0
) AS requests
CROSS JOIN (SELECT version FROM encryption_keys WHERE state = 'active') AS key;
"""


def fill(deployment: Deployment, connections: int, *, seed: int) -> None:
    """Insert `connections` integrations, as many users, and all rows that depend on them, in whole blocks.

    Both numbers are rounded up to a multiple of ten. The deployment must have a key version and a service, and no
    users. Raises BenchmarkError.
    """
    users = -(-connections // USERS_IN_A_BLOCK) * USERS_IN_A_BLOCK
    populate(deployment, users, seed=seed)
    tables = ", ".join(f"'{table}'::regclass" for table in TABLES.split(", "))
    named = {
        "tables": tables,
        "seed": seed / 2**31,
        "provider": PROVIDER,
        "scope": SCOPE,
        "reads": READS_PER_CONNECTION,
    }
    for inserts in (_CONNECTIONS + _TOKENS + _REVOCATIONS, _READS):
        statements = [_TAKE_AWAY, _FUNCTIONS, inserts, _PUT_BACK]
        deployment.query("".join(statement.format(**named) for statement in statements))
