"""Fills a database with users in SQL, with names as unevenly distributed as those of people.

One user in a hundred is suspended here, and one is deleted. E-mail addresses are made of the names, as companies do it:
a search that finds a user by their first name finds them by their address too. That is the hardest case for a search of
both, which must list everybody once.
"""

from collections.abc import Iterable
from typing import Final

from benchmarks.deployment import ISSUER, Deployment
from services.devstack.postgres import OWNER_ROLE
from services.user_management.utils.validators import search_key

# Roughly by frequency: the random choice below picks the first ones more often.
_FIRST_NAMES: Final = """
Maria James Mary John Patricia Robert Jennifer Michael Linda David Elizabeth William Barbara Richard Susan Joseph
Jessica Thomas Sarah Charles Karen Christopher Lisa Daniel Nancy Matthew Betty Anthony Sandra Mark Margaret Donald
Ashley Steven Kimberly Andrew Emily Paul Donna Joshua Michelle José Carol Kenneth Amanda Kevin Melissa Brian Zoë
André Müge Søren Łukasz Björn Chloë Renée François Nuño Đorđe Åsa
"""
_LAST_NAMES: Final = """
Smith Johnson Williams Brown Jones García Miller Davis Rodríguez Martínez Hernández López González Wilson Anderson
Thomas Taylor Moore Jackson Martin Lee Pérez Thompson White Harris Sánchez Clark Ramírez Lewis Robinson Walker Young
Allen King Wright Scott Torres Nguyễn Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts
Müller Schäfer Weiß Jørgensen Øvergård Ångström Kowalczyk Novák Çelik Dvořák O'Neill Fitzgerald MacDonald Marchetti
"""
_DOMAINS: Final = "gmail.com yahoo.com hotmail.com outlook.com icloud.com example.com example.org example.net"
_SUSPENDED, _DELETED = 7, 13
"""Remainders modulo 100 of the numbers of suspended and of deleted users."""

# Building an index is several times faster than growing it, as is checking all references at once.
_TAKE_AWAY: Final = """
CREATE TEMPORARY TABLE put_back (statement text);
DO $$ DECLARE part record; BEGIN
    FOR part IN
        SELECT conrelid::regclass AS owner, conname AS name, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint
        WHERE contype = 'f' AND conrelid IN ('user_identities'::regclass, 'sign_ins'::regclass)
    LOOP
        INSERT INTO put_back
        VALUES (format('ALTER TABLE %s ADD CONSTRAINT %I %s', part.owner, part.name, part.definition));
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', part.owner, part.name);
    END LOOP;
    FOR part IN
        SELECT indexrelid::regclass AS name, pg_get_indexdef(indexrelid) AS definition
        FROM pg_index
        WHERE NOT indisprimary
            AND indrelid IN ('users'::regclass, 'user_identities'::regclass, 'sign_ins'::regclass)
    LOOP
        INSERT INTO put_back VALUES (part.definition);
        EXECUTE format('DROP INDEX %s', part.name);
    END LOOP;
END $$;
"""
_PUT_BACK: Final = """
DO $$ DECLARE part record; BEGIN
    FOR part IN SELECT statement FROM put_back LOOP
        EXECUTE part.statement;
    END LOOP;
END $$;
"""
_INSERT: Final = """
SELECT setseed({seed});
CREATE TEMPORARY TABLE lots AS
SELECT n, 'user_' || substr(md5('{seed}-' || n), 1, 27) AS id,
       1 + floor({first_count} * power(random(), 2))::int AS f, 1 + floor({last_count} * power(random(), 2))::int AS l,
       1 + floor({domain_count} * power(random(), 3))::int AS d,
       -- As they came: the newest stand last.
       now() - interval '3 years' * (1 - n / {count}::float8) AS created_at
FROM generate_series(1, {count}) AS n;

INSERT INTO users (
    id, email, email_normalized, email_verified, first_name, first_name_normalized, last_name, last_name_normalized,
    profile_image_url, status, suspended_at, suspended_reason, onboarding_completed, last_login_at, last_active_at,
    local_fields, upstream_profile, upstream_status, upstream_updated_at, upstream_event_at, upstream_digest,
    deleted_at, deleted_by, version, created_at, updated_at)
SELECT id, email, email, true, first_name, ({first_keys})[f], last_name, ({last_keys})[l],
       image, CASE WHEN is_deleted THEN 'deactivated' WHEN is_suspended THEN 'suspended' ELSE 'active' END,
       CASE WHEN is_suspended THEN now() END, CASE WHEN is_suspended THEN 'abuse' END, true, created_at,
       -- Everybody is in the middle of a visit: the first request in five minutes would be a write, not a read.
       now(),
       '[]', jsonb_build_object('first_name', first_name, 'last_name', last_name, 'profile_image_url', image),
       'active', created_at, created_at, sha256(id::bytea),
       CASE WHEN is_deleted THEN now() END, CASE WHEN is_deleted THEN 'user' END, 1, created_at, created_at
FROM lots
CROSS JOIN LATERAL (
    SELECT ({first_names})[f] AS first_name, ({last_names})[l] AS last_name, 'https://img.example.com/' || id AS image,
           replace(replace(({first_keys})[f] || '.' || ({last_keys})[l], '''', ''), ' ', '') || n || '@'
               || ({domains})[d] AS email,
           n % 100 = {suspended} AS is_suspended, n % 100 = {deleted} AS is_deleted
) AS person;

INSERT INTO user_identities (issuer, subject, user_id, created_at) SELECT '{issuer}', id, id, created_at FROM lots;
INSERT INTO sign_ins (issuer, session_id, user_id, started_at)
SELECT '{issuer}', 'sess_' || substr(md5(id), 1, 27), id, now() - interval '60 days' * random() FROM lots;
"""


def populate(deployment: Deployment, count: int, *, seed: int) -> None:
    """Insert `count` users, each with an identity and a session, as the role that owns the tables. Then vacuum the
    tables, update their statistics and make a checkpoint.

    Raises BenchmarkError.
    """
    first_names, last_names, domains = _FIRST_NAMES.split(), _LAST_NAMES.split(), _DOMAINS.split()
    sql = _INSERT.format(
        count=count,
        seed=seed / 2**31,
        issuer=ISSUER,
        first_count=len(first_names),
        last_count=len(last_names),
        domain_count=len(domains),
        first_names=_array(first_names),
        last_names=_array(last_names),
        first_keys=_array(map(search_key, first_names)),
        last_keys=_array(map(search_key, last_names)),
        domains=_array(domains),
        suspended=_SUSPENDED,
        deleted=_DELETED,
    )
    deployment.query(_TAKE_AWAY + sql + _PUT_BACK, role=OWNER_ROLE)
    # Otherwise autovacuum and the checkpointer would do this in the middle of the run.
    deployment.query("VACUUM ANALYZE users, user_identities, sign_ins")
    deployment.query("CHECKPOINT")


def _array(values: Iterable[str]) -> str:
    quoted = ", ".join("'{}'".format(value.replace("'", "''")) for value in values)
    return f"ARRAY[{quoted}]"
