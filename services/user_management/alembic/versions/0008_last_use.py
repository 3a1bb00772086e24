"""When a connection was last used, found without walking over the reads that were refused.

Made partition by partition, while others read and write; months to come have it from their parent.

Revision: 0008 after 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAME = "ix_token_reads_granted"
DEFINITION = "(integration_id, id) WHERE outcome = 'granted'"
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'token_reads'::regclass ORDER BY 1"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # What a run that was stopped has left goes first. Then one without anything in it, and of no use until every
        # partition's own is attached.
        op.execute(f"DROP INDEX IF EXISTS {NAME}")
        op.execute(f"CREATE INDEX {NAME} ON ONLY token_reads {DEFINITION}")
        partitions = [row[0] for row in op.get_bind().exec_driver_sql(PARTITIONS)]
        # These wait for older transactions without keeping anybody from the table.
        op.execute("SET lock_timeout = 0")
        for partition in partitions:
            own = f"{partition}_granted_idx"
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {own}")
            op.execute(f"CREATE INDEX CONCURRENTLY {own} ON {partition} {DEFINITION}")
        op.execute("SET lock_timeout = '2s'")
        for partition in partitions:
            op.execute(f"ALTER INDEX {NAME} ATTACH PARTITION {partition}_granted_idx")


def downgrade() -> None:
    op.drop_index(NAME, "token_reads")
