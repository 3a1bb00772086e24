"""Add columns about scopes, failures and checks to `integrations`, and create the tables of token revocations, provider
health, webhook subscriptions and deliveries, and counters of integrations.

New columns have no default and new tables no rows, so each lock is held for a moment.

Revision: 0006 after 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INTEGRATION_COLUMNS = (
    ("metadata", postgresql.JSONB()),
    ("requested_scopes", postgresql.JSONB()),
    ("last_failure_detail", sa.Text()),
    ("failing_since", sa.DateTime(timezone=True)),
    ("last_checked_at", sa.DateTime(timezone=True)),
    ("last_probed_at", sa.DateTime(timezone=True)),
    ("clock_skew_seconds", sa.Integer()),
)
TABLES = (
    "token_revocations",
    "provider_health",
    "webhook_subscriptions",
    "webhook_deliveries",
    "connection_counters",
)


def _runtime_role() -> str | None:
    """Return the role of `DATABASE_URL`, quoted; None if it names none, or the role that migrates, which needs no
    grants."""
    role = op.get_context().opts["runtime_role"]
    connection = op.get_bind()
    owner = connection.exec_driver_sql("SELECT current_user").scalar_one()
    return None if role in ("", owner) else connection.dialect.identifier_preparer.quote(role)


def upgrade() -> None:
    for name, column_type in INTEGRATION_COLUMNS:
        op.add_column("integrations", sa.Column(name, column_type, nullable=True))
    _create_revocations()
    _create_provider_health()
    _create_subscriptions()
    _create_deliveries()
    _create_counters()
    if (role := _runtime_role()) is not None:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(TABLES)} TO {role}")


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    for name, _ in reversed(INTEGRATION_COLUMNS):
        op.drop_column("integrations", name)


def _create_revocations() -> None:
    op.create_table(
        "token_revocations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("integration_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("provider_account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ciphertext", postgresql.BYTEA(), nullable=True),
        sa.Column("key_version", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_ciphertext", postgresql.BYTEA(), nullable=True),
        sa.Column("refresh_key_version", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('access', 'refresh')", name=op.f("ck_token_revocations_kind")),
        sa.CheckConstraint(
            "state IN ('pending', 'done', 'superseded', 'impossible', 'given_up')",
            name=op.f("ck_token_revocations_state"),
        ),
        sa.ForeignKeyConstraint(
            ["key_version"], ["encryption_keys.version"], name="fk_token_revocations_key_version", ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["refresh_key_version"],
            ["encryption_keys.version"],
            name="fk_token_revocations_refresh_key_version",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_token_revocations"),
    )
    op.create_index(
        "ix_token_revocations_due",
        "token_revocations",
        ["next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_token_revocations_integration_id", "token_revocations", ["integration_id"])
    op.create_index("ix_token_revocations_key_version", "token_revocations", ["key_version", "id"])
    op.create_index(
        "ix_token_revocations_refresh_key_version",
        "token_revocations",
        ["refresh_key_version", "id"],
        postgresql_where=sa.text("refresh_key_version IS NOT NULL"),
    )
    op.create_index(
        "ix_token_revocations_user_id", "token_revocations", ["user_id"], postgresql_where=sa.text("state = 'pending'")
    )


def _create_provider_health() -> None:
    op.create_table(
        "provider_health",
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("enforced_scopes", postgresql.JSONB(), nullable=True),
        sa.Column("scopes_required_at", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint("state IN ('up', 'down', 'misconfigured')", name=op.f("ck_provider_health_state")),
        sa.PrimaryKeyConstraint("provider", name="pk_provider_health"),
    )


def _create_subscriptions() -> None:
    op.create_table(
        "webhook_subscriptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Uuid(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("event_types", postgresql.JSONB(), nullable=False),
        sa.Column("secret_ciphertext", postgresql.BYTEA(), nullable=False),
        sa.Column("secret_key_version", sa.Integer(), nullable=False),
        sa.Column("former_secret_ciphertext", postgresql.BYTEA(), nullable=True),
        sa.Column("former_secret_key_version", sa.Integer(), nullable=True),
        sa.Column("former_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('active', 'disabled')", name=op.f("ck_webhook_subscriptions_status")),
        sa.ForeignKeyConstraint(
            ["client_id"], ["service_clients.id"], name="fk_webhook_subscriptions_client_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["secret_key_version"],
            ["encryption_keys.version"],
            name="fk_webhook_subscriptions_secret_key_version",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["former_secret_key_version"],
            ["encryption_keys.version"],
            name="fk_webhook_subscriptions_former_secret_key_version",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_subscriptions"),
    )
    op.create_index("ix_webhook_subscriptions_client_id", "webhook_subscriptions", ["client_id"])


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["webhook_subscriptions.id"],
            name="fk_webhook_deliveries_subscription_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("subscription_id", "event_id", name="uc_webhook_deliveries_subscription_id_event_id"),
        sa.UniqueConstraint("subscription_id", "sequence", name="uc_webhook_deliveries_subscription_id_sequence"),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["subscription_id", "next_attempt_at", "id"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def _create_counters() -> None:
    op.create_table(
        "connection_counters",
        sa.Column("counter", sa.Text(collation="C"), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("outcome", sa.Text(collation="C"), nullable=False),
        sa.Column("reason", sa.Text(collation="C"), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "counter IN ('transition', 'refresh', 'misconfigured')", name=op.f("ck_connection_counters_counter")
        ),
        sa.PrimaryKeyConstraint("counter", "provider", "outcome", "reason", "shard", name="pk_connection_counters"),
    )
