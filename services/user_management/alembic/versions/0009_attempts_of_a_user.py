"""Index `oauth_flows` by user and provider, while others read and write, so that the connect attempts of one user are
found without reading the whole table.

Revision: 0009 after 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = "ix_oauth_flows_user_id"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Concurrent index builds wait for older transactions, however long, but block no reads or writes.
        op.execute("SET lock_timeout = 0")
        # A build that was interrupted leaves an invalid index.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute(f"CREATE INDEX CONCURRENTLY {NAME} ON oauth_flows (user_id, provider)")
        op.execute("SET lock_timeout = '2s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute("SET lock_timeout = '2s'")
