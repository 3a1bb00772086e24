"""Make three indexes on `integrations`, while others read and write.

Revision: 0007 after 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_integrations_probed", "(last_probed_at NULLS FIRST, id) WHERE status IN ('active', 'degraded')"),
    ("ix_integrations_account", "(provider, provider_account_id)"),
    ("ix_integrations_lacking", "(provider, id) WHERE status_reason IN ('scope_upgrade', 'scope_missing')"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Concurrent index builds wait for older transactions, however long, but block no reads or writes.
        op.execute("SET lock_timeout = 0")
        for name, definition in INDEXES:
            # A build that was interrupted leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON integrations {definition}")
        op.execute("SET lock_timeout = '2s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        for name, _ in reversed(INDEXES):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '2s'")
