"""Grant the runtime role, that of `DATABASE_URL`, its rights on the tables, the logs and the function for partitions.

Revision: 0003 after 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    "users",
    "user_identities",
    "erased_subjects",
    "user_preferences",
    "preference_revisions",
    "encryption_keys",
    "integrations",
    "encrypted_tokens",
    "oauth_flows",
    "service_clients",
    "service_keys",
    "service_grants",
    "webhook_events",
    "outbox_events",
    "job_runs",
)
LOGS = ("audit_logs", "audit_details", "token_reads")


def _runtime_role() -> str | None:
    """Return the role of `DATABASE_URL`, quoted; None if it names none, or the role that migrates, which needs no
    grants."""
    role = op.get_context().opts["runtime_role"]
    connection = op.get_bind()
    owner = connection.exec_driver_sql("SELECT current_user").scalar_one()
    return None if role in ("", owner) else connection.dialect.identifier_preparer.quote(role)


def upgrade() -> None:
    role = _runtime_role()
    if role is None:
        return
    op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(TABLES)} TO {role}")
    # The record of what happened can be added to, never changed.
    op.execute(f"GRANT SELECT, INSERT ON {', '.join(LOGS)} TO {role}")
    op.execute(f"GRANT EXECUTE ON FUNCTION ensure_log_partitions(integer) TO {role}")


def downgrade() -> None:
    role = _runtime_role()
    if role is None:
        return
    op.execute(f"REVOKE ALL ON FUNCTION ensure_log_partitions(integer) FROM {role}")
    op.execute(f"REVOKE ALL ON {', '.join((*TABLES, *LOGS))} FROM {role}")
    op.execute(f"REVOKE USAGE ON SCHEMA public FROM {role}")
