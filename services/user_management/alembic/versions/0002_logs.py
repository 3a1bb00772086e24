"""Create the logs `audit_logs`, `audit_details` and `token_reads`, partitioned by month, and the function that makes
their partitions; the first partitions too.

Revision: 0002 after 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


LOGS = ("audit_logs", "audit_details", "token_reads")

ENSURE_PARTITIONS = """
CREATE FUNCTION ensure_log_partitions(months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
-- Makes the monthly partitions from last month to `months_ahead` months from now; returns how many were new.
-- Ids are UUIDs of version 7: their first 48 bits are Unix milliseconds, so a month is a range of ids.
-- Runs with the owner's rights, since the runtime role may not create tables; it can make these and nothing else.
DECLARE
    log_table text;
    month timestamptz;
    partition_name text;
    created integer := 0;
BEGIN
    FOREACH log_table IN ARRAY ARRAY['audit_logs', 'audit_details', 'token_reads'] LOOP
        FOR i IN -1..months_ahead LOOP
            month := date_trunc('month', now(), 'UTC') + make_interval(months => i);
            partition_name := log_table || '_p' || to_char(month AT TIME ZONE 'UTC', 'YYYYMM');
            IF to_regclass(partition_name) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', partition_name, log_table,
                    lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0') || repeat('0', 20),
                    lpad(to_hex((extract(epoch FROM month + interval '1 month') * 1000)::bigint), 12, '0')
                        || repeat('0', 20));
                created := created + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN created;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "audit_details",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=True),
        sa.Column("changes", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_details"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("ix_audit_details_user_id", "audit_details", ["user_id"])
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=False),
        sa.Column("impersonator", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(collation="C"), nullable=True),
        sa.Column("target_type", sa.Text(), nullable=False),
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_logs"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("ix_audit_logs_action_id", "audit_logs", ["action", "id"])
    op.create_index("ix_audit_logs_user_id_id", "audit_logs", ["user_id", "id"])
    op.create_table(
        "token_reads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("client_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("integration_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('granted', 'grant_denied', 'reason_required', 'unknown_provider', 'user_not_found',"
            " 'user_inactive', 'not_connected', 'needs_reauth', 'revoked', 'insufficient_scope')",
            name=op.f("ck_token_reads_outcome"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_token_reads"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("ix_token_reads_client_id_id", "token_reads", ["client_id", "id"])
    op.create_index("ix_token_reads_user_id_provider_id", "token_reads", ["user_id", "provider", "id"])
    for log in LOGS:
        # Takes rows of months for which nobody made a partition, so that no request fails for the lack of one.
        op.execute(f"CREATE TABLE {log}_default PARTITION OF {log} DEFAULT")
    op.execute(ENSURE_PARTITIONS)
    op.execute("REVOKE ALL ON FUNCTION ensure_log_partitions(integer) FROM PUBLIC")
    op.execute("SELECT ensure_log_partitions(3)")


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_log_partitions(integer)")
    for log in reversed(LOGS):
        op.drop_table(log)
