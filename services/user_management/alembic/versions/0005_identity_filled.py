"""Fill the columns that 0004 added to `users` for search keys and for what upstream last said, and to `webhook_events`
for the subject, batch by batch; then validate a constraint and make indexes. Others read and write meanwhile.

This is not one transaction: finished batches and indexes stay, so after an interruption it can simply be run again.

Revision: 0005 after 0004
"""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BATCH = 1000
LIVE = "deleted_at IS NULL"
LAST_NAME_ALONE = "NOT starts_with(coalesce(email_normalized, ''), last_name_normalized)"
FIRST_NAME_ALONE = (
    "NOT starts_with(coalesce(email_normalized, ''), first_name_normalized)"
    " AND NOT starts_with(coalesce(last_name_normalized, ''), first_name_normalized)"
)
INDEXES = (
    ("ix_users_live_email", "users", "email_normalized, id", LIVE),
    ("ix_users_live_last_name", "users", "last_name_normalized, id", f"{LIVE} AND {LAST_NAME_ALONE}"),
    ("ix_users_live_first_name", "users", "first_name_normalized, id", f"{LIVE} AND {FIRST_NAME_ALONE}"),
    ("ix_users_live_created_at", "users", "created_at, id", LIVE),
    ("ix_users_live_status", "users", "status, created_at, id", LIVE),
    ("ix_users_deleted_at", "users", "deleted_at, id", "deleted_at IS NOT NULL"),
    ("ix_webhook_events_subject", "webhook_events", "subject, id", None),
)
SELECT_USERS = """
SELECT id, first_name, last_name FROM users WHERE id > :after ORDER BY id LIMIT :batch
"""
# Until this revision, names and suspensions came from upstream alone, so the row itself tells what upstream last said.
# Values of `upstream_status` and `upstream_profile` that were written since 0004 are kept.
FILL_USER = """
UPDATE users
SET first_name_normalized = :first, last_name_normalized = :last,
    upstream_status = CASE
        WHEN upstream_updated_at IS NULL OR upstream_status IS NOT NULL THEN upstream_status
        WHEN status = 'suspended' THEN 'suspended' ELSE 'active' END,
    upstream_profile = CASE
        WHEN upstream_updated_at IS NULL OR upstream_profile IS NOT NULL THEN upstream_profile
        ELSE jsonb_build_object('first_name', first_name, 'last_name', last_name,
                                'profile_image_url', profile_image_url) END
WHERE id = :id AND first_name IS NOT DISTINCT FROM :first_name AND last_name IS NOT DISTINCT FROM :last_name
"""
FILL_EVENTS = """
WITH batch AS (SELECT id FROM webhook_events WHERE id > :after ORDER BY id LIMIT :batch), filled AS (
    UPDATE webhook_events e
    SET subject = CASE WHEN e.event_type LIKE 'user.%' THEN e.payload #>> '{data,id}'
                       ELSE coalesce(e.payload #>> '{data,user_id}',
                                     e.payload #>> '{data,public_user_data,user_id}') END
    FROM batch WHERE e.id = batch.id AND e.subject IS NULL
)
SELECT max(id::text)::uuid FROM batch
"""


def _search_key(name: str | None) -> str | None:
    """Return the search key of a name, None for no name, as the service makes it at this revision; a later change of
    the rule comes with a migration of its own."""
    if name is None:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKD", name[:200]) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())[:200]


def _fill_users(connection: sa.Connection) -> None:
    """Fill the search keys and what upstream last said of every user. Search keys are made in Python, since what
    lower() makes of a letter depends on the cluster's locale."""
    after = ""
    while rows := connection.execute(sa.text(SELECT_USERS), {"after": after, "batch": BATCH}).all():
        values = [
            {
                "id": row.id,
                "first_name": row.first_name,
                "last_name": row.last_name,
                "first": _search_key(row.first_name),
                "last": _search_key(row.last_name),
            }
            for row in rows
        ]
        connection.execute(sa.text(FILL_USER), values)
        after = rows[-1].id


def _fill_events(connection: sa.Connection) -> None:
    after = "00000000-0000-0000-0000-000000000000"
    while last := connection.execute(sa.text(FILL_EVENTS), {"after": after, "batch": BATCH}).scalar_one():
        after = last


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        _fill_users(connection)
        _fill_events(connection)
        op.execute("ALTER TABLE users VALIDATE CONSTRAINT ck_users_upstream_status")
        # Concurrent index builds wait for older transactions, however long, but block no reads or writes.
        op.execute("SET lock_timeout = 0")
        for name, table, columns, where in INDEXES:
            # A build that was interrupted leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            condition = f" WHERE {where}" if where else ""
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} ({columns}){condition}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_users_email_normalized")
        op.execute("SET lock_timeout = '2s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_users_email_normalized ON users (email_normalized)")
        for name, _table, _columns, _where in reversed(INDEXES):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '2s'")
