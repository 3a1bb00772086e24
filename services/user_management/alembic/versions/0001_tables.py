"""Create the first tables: users with identities and preferences, tombstones of erased users, vault keys, integrations
with their tokens and connect attempts, services with keys and grants, inbox, outbox, and runs of jobs.

Revision: 0001 after nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_users()
    _create_connections()
    _create_services()
    _create_work()


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("email_normalized", sa.Text(collation="C"), nullable=True),
        sa.Column("email_verified", sa.Boolean(), nullable=False),
        sa.Column("first_name", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("profile_image_url", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("onboarding_completed", sa.Boolean(), nullable=False),
        sa.Column("onboarding_step", sa.Text(), nullable=True),
        sa.Column("last_login_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_active_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("local_fields", postgresql.JSONB(), nullable=False),
        sa.Column("upstream_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_by", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id ~ '^[a-z]+_[A-Za-z0-9_-]{1,58}$'", name=op.f("ck_users_id")),
        sa.CheckConstraint(
            "status IN ('pending_verification', 'active', 'suspended', 'deactivated')", name=op.f("ck_users_status")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_index("ix_users_email_normalized", "users", ["email_normalized"])
    op.create_index(
        "uq_users_own_email",
        "users",
        ["email_normalized"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL AND starts_with(id, 'usr_')"),
    )
    op.create_table(
        "user_identities",
        sa.Column("issuer", sa.Text(collation="C"), nullable=False),
        sa.Column("subject", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_user_identities_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_user_identities"),
    )
    op.create_index("ix_user_identities_user_id", "user_identities", ["user_id"])
    op.create_table(
        "erased_subjects",
        sa.Column("subject_hash", sa.LargeBinary(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject_hash", name="pk_erased_subjects"),
    )
    op.create_table(
        "user_preferences",
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("overrides", postgresql.JSONB(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_user_preferences_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", name="pk_user_preferences"),
    )
    op.create_table(
        "preference_revisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("overrides", postgresql.JSONB(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_preference_revisions_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_preference_revisions"),
        sa.UniqueConstraint("user_id", "version", name="uc_preference_revisions_user_id_version"),
    )


def _create_connections() -> None:
    op.create_table(
        "encryption_keys",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("kdf", sa.Text(), nullable=False),
        sa.Column("canary", postgresql.BYTEA(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('active', 'decrypt_only', 'retired')", name=op.f("ck_encryption_keys_state")),
        sa.PrimaryKeyConstraint("version", name="pk_encryption_keys"),
    )
    op.create_index(
        "uq_encryption_keys_active",
        "encryption_keys",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "integrations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("provider_account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("account_email", sa.Text(), nullable=True),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("status_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("granted_scopes", postgresql.JSONB(), nullable=False),
        sa.Column("token_version", sa.BigInteger(), nullable=False),
        sa.Column("refresh_lease_owner", sa.Uuid(), nullable=True),
        sa.Column("refresh_lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_attempts", sa.Integer(), nullable=False),
        sa.Column("refresh_not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_failures", sa.Integer(), nullable=False),
        sa.Column("last_refresh_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure", sa.Text(), nullable=True),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disconnected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('active', 'degraded', 'needs_reauth', 'revoked', 'disconnected')",
            name=op.f("ck_integrations_status"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_integrations_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_integrations"),
        sa.UniqueConstraint(
            "user_id", "provider", "provider_account_id", name="uc_integrations_user_id_provider_provider_account_id"
        ),
    )
    op.create_index(
        "ix_integrations_unsettled", "integrations", ["id"], postgresql_where=sa.text("refresh_attempts > 0")
    )
    op.create_index(
        "uq_integrations_primary",
        "integrations",
        ["user_id", "provider"],
        unique=True,
        postgresql_where=sa.text("is_primary"),
    )
    op.create_table(
        "encrypted_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("integration_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ciphertext", postgresql.BYTEA(), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('access', 'refresh')", name=op.f("ck_encrypted_tokens_kind")),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integrations.id"], name="fk_encrypted_tokens_integration_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["key_version"], ["encryption_keys.version"], name="fk_encrypted_tokens_key_version", ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_encrypted_tokens"),
        sa.UniqueConstraint("integration_id", "kind", name="uc_encrypted_tokens_integration_id_kind"),
    )
    op.create_index(
        "ix_encrypted_tokens_access_expiry",
        "encrypted_tokens",
        ["expires_at"],
        postgresql_where=sa.text("kind = 'access' AND expires_at IS NOT NULL"),
    )
    op.create_index("ix_encrypted_tokens_key_version", "encrypted_tokens", ["key_version", "id"])

    op.create_table(
        "oauth_flows",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("state_hash", postgresql.BYTEA(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("requested_scopes", postgresql.JSONB(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("return_url", sa.Text(), nullable=False),
        sa.Column("code_ciphertext", postgresql.BYTEA(), nullable=True),
        sa.Column("code_key_version", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("consumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'returned', 'consumed', 'failed')", name=op.f("ck_oauth_flows_status")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_oauth_flows_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_oauth_flows"),
        sa.UniqueConstraint("state_hash", name="uc_oauth_flows_state_hash"),
    )
    op.create_index("ix_oauth_flows_expires_at", "oauth_flows", ["expires_at"])


def _create_services() -> None:
    op.create_table(
        "service_clients",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("permissions", postgresql.JSONB(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_service_clients"),
        sa.UniqueConstraint("name", name="uc_service_clients_name"),
    )
    op.create_table(
        "service_keys",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("client_id", sa.Uuid(), nullable=False),
        sa.Column("secret_hash", postgresql.BYTEA(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"], ["service_clients.id"], name="fk_service_keys_client_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_service_keys"),
    )
    op.create_index("ix_service_keys_client_id", "service_keys", ["client_id"])
    op.create_table(
        "service_grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(collation="C"), nullable=False),
        sa.Column("scopes", postgresql.JSONB(), nullable=True),
        sa.Column("reason_required", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"], ["service_clients.id"], name="fk_service_grants_client_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_service_grants"),
        sa.UniqueConstraint("client_id", "provider", name="uc_service_grants_client_id_provider"),
    )


def _create_work() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(collation="C"), nullable=False),
        sa.Column("message_id", sa.Text(collation="C"), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_events"),
        sa.UniqueConstraint("source", "message_id", name="uc_webhook_events_source_message_id"),
    )
    op.create_index(
        "ix_webhook_events_pending",
        "webhook_events",
        ["next_attempt_at"],
        postgresql_where=sa.text("applied_at IS NULL"),
    )
    op.create_table(
        "outbox_events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(collation="C"), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox_events"),
        sa.UniqueConstraint("id", name="uc_outbox_events_id"),
    )
    op.create_index(
        "ix_outbox_events_unpublished", "outbox_events", ["seq"], postgresql_where=sa.text("published_at IS NULL")
    )
    op.create_table(
        "job_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job", sa.Text(collation="C"), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cursor", postgresql.JSONB(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_job_runs"),
        sa.UniqueConstraint("job", "slot", name="uc_job_runs_job_slot"),
    )
    op.create_index("ix_job_runs_started_at", "job_runs", ["started_at"])


def downgrade() -> None:
    op.drop_table("job_runs")
    op.drop_table("outbox_events")
    op.drop_table("webhook_events")
    op.drop_table("service_grants")
    op.drop_table("service_keys")
    op.drop_table("service_clients")
    op.drop_table("oauth_flows")
    op.drop_table("encrypted_tokens")
    op.drop_table("integrations")
    op.drop_table("encryption_keys")
    op.drop_table("preference_revisions")
    op.drop_table("user_preferences")
    op.drop_table("erased_subjects")
    op.drop_table("user_identities")
    op.drop_table("users")
