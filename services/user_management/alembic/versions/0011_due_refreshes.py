"""Copy to `integrations` when the access token was issued and expires, so that one index finds the due refreshes; both
columns are null unless the integration has an access and a refresh token. Also index the users to whom no tokens are
served.

A trigger on `encrypted_tokens` keeps the copy up to date, also while processes of the previous release run. Filling and
indexing are no single transaction: finished parts stay, so after an interruption the revision can be run again.

Revision: 0011 after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BATCH = 1000
COLUMNS = ("refresh_due_at", "refresh_issued_at")
# The aggregate gives a row of nulls where one of the two tokens is missing.
FUNCTION = """
CREATE OR REPLACE FUNCTION note_due_refresh() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE integrations i
    SET refresh_due_at = held.expires_at, refresh_issued_at = held.issued_at
    FROM (
        SELECT max(access.expires_at) AS expires_at, max(access.issued_at) AS issued_at
        FROM encrypted_tokens access
        JOIN encrypted_tokens refresh ON refresh.integration_id = access.integration_id AND refresh.kind = 'refresh'
        WHERE access.integration_id = coalesce(NEW.integration_id, OLD.integration_id) AND access.kind = 'access'
    ) AS held
    WHERE i.id = coalesce(NEW.integration_id, OLD.integration_id)
      AND (i.refresh_due_at, i.refresh_issued_at) IS DISTINCT FROM (held.expires_at, held.issued_at);
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE OR REPLACE TRIGGER note_due_refresh
AFTER INSERT OR DELETE OR UPDATE OF expires_at, issued_at ON encrypted_tokens
FOR EACH ROW EXECUTE FUNCTION note_due_refresh()
"""
# A row that the trigger has filled meanwhile is left alone: it is newer than what this statement reads.
FILL = """
WITH batch AS (SELECT id FROM integrations WHERE id > :after ORDER BY id LIMIT :batch), filled AS (
    UPDATE integrations i
    SET refresh_due_at = access.expires_at, refresh_issued_at = access.issued_at
    FROM batch
    JOIN encrypted_tokens access ON access.integration_id = batch.id AND access.kind = 'access'
    JOIN encrypted_tokens refresh ON refresh.integration_id = batch.id AND refresh.kind = 'refresh'
    WHERE i.id = batch.id AND i.refresh_issued_at IS NULL
)
SELECT max(id::text)::uuid FROM batch
"""
INDEXES = (
    (
        "ix_integrations_refresh_due",
        "integrations (refresh_due_at, id)"
        " INCLUDE (user_id, token_version, refresh_issued_at, refresh_lease_until, refresh_not_before)"
        " WHERE refresh_due_at IS NOT NULL AND status IN ('active', 'degraded')",
    ),
    ("ix_users_not_served", "users (id) WHERE deleted_at IS NOT NULL OR status <> 'active'"),
)


def _fill() -> None:
    connection = op.get_bind()
    after = "00000000-0000-0000-0000-000000000000"
    while last := connection.execute(sa.text(FILL), {"after": after, "batch": BATCH}).scalar_one():
        after = last


def upgrade() -> None:
    for column in COLUMNS:
        op.execute(f"ALTER TABLE integrations ADD COLUMN IF NOT EXISTS {column} timestamptz")
    op.execute(FUNCTION)
    op.execute(TRIGGER)
    with op.get_context().autocommit_block():
        _fill()
        # Concurrent index builds wait for older transactions, however long, but block no reads or writes.
        op.execute("SET lock_timeout = 0")
        for name, definition in INDEXES:
            # A build that was interrupted leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")
        op.execute("SET lock_timeout = '2s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        for name, _ in reversed(INDEXES):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '2s'")
    op.execute("DROP TRIGGER IF EXISTS note_due_refresh ON encrypted_tokens")
    op.execute("DROP FUNCTION IF EXISTS note_due_refresh()")
    for column in reversed(COLUMNS):
        op.execute(f"ALTER TABLE integrations DROP COLUMN IF EXISTS {column}")
