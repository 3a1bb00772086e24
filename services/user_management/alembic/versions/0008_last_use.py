"""Index the granted reads in `token_reads` by integration, so that an integration's last use is found without walking
over the reads that were refused.

The index is made partition by partition, while others read and write; partitions of later months get it by themselves.

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
        # Drop what an interrupted run has left. The index on the parent alone is empty, and invalid until an index of
        # every partition is attached to it.
        op.execute(f"DROP INDEX IF EXISTS {NAME}")
        op.execute(f"CREATE INDEX {NAME} ON ONLY token_reads {DEFINITION}")
        partitions = [row[0] for row in op.get_bind().exec_driver_sql(PARTITIONS)]
        # Concurrent index builds wait for older transactions, however long, but block no reads or writes.
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
