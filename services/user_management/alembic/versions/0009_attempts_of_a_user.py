"""The connect attempts of one user, found by an index that is made while others read and write.

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
        # These wait for older transactions without keeping anybody from the table.
        op.execute("SET lock_timeout = 0")
        # One that was stopped half way is there and of no use.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute(f"CREATE INDEX CONCURRENTLY {NAME} ON oauth_flows (user_id, provider)")
        op.execute("SET lock_timeout = '2s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute("SET lock_timeout = '2s'")
