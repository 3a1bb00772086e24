"""Fill what 0004 made room for, batch by batch, and index it, while others read and write.

Not one transaction: what is done stays done, and the revision can be run again from wherever it was stopped.

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
# All there was until now came from upstream: nobody could edit a name here, and nobody else could suspend. A row that
# upstream has described since is left as it is.
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
    """As the service makes it at this revision; later changes to it come with a migration of their own."""
    if name is None:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKD", name[:200]) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())[:200]


def _fill_users(connection: sa.Connection) -> None:
    """Search keys in Python, since what lower() makes of a letter depends on the cluster's locale."""
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
        # These wait for older transactions without keeping anybody from the table.
        op.execute("SET lock_timeout = 0")
        for name, table, columns, where in INDEXES:
            # One that was stopped half way is there and of no use.
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
