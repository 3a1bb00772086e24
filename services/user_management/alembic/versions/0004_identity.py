"""Add columns to `users` (search keys, what upstream says, suspension and restoration), `webhook_events` (subject) and
`service_keys` (last use); create the table `sign_ins` and the function `erase_audit_details`.

No statement here reads or rewrites rows, so each lock is held for a moment. Revision 0005 fills the search keys,
`upstream_status`, `upstream_profile` and `subject`.

Revision: 0004 after 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ERASE_AUDIT_DETAILS = """
CREATE FUNCTION erase_audit_details(erased_user_id text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
-- Deletes the old and new values in the audit of one user who was erased; who did what, and when, stays.
-- Runs with the owner's rights, since the runtime role may delete nothing there; refuses while the user exists.
DECLARE
    erased integer;
BEGIN
    IF EXISTS (SELECT FROM users WHERE id = erased_user_id) THEN
        RAISE EXCEPTION 'user % still exists', erased_user_id;
    END IF;
    DELETE FROM audit_details WHERE user_id = erased_user_id;
    GET DIAGNOSTICS erased = ROW_COUNT;
    RETURN erased;
END $$
"""

USER_COLUMNS = (
    ("first_name_normalized", sa.Text(collation="C")),
    ("last_name_normalized", sa.Text(collation="C")),
    ("upstream_profile", postgresql.JSONB()),
    ("upstream_status", sa.Text()),
    ("upstream_event_at", sa.DateTime(timezone=True)),
    ("upstream_digest", sa.LargeBinary()),
    ("suspended_at", sa.DateTime(timezone=True)),
    ("suspended_reason", sa.Text()),
    ("restored_at", sa.DateTime(timezone=True)),
)


def _runtime_role() -> str | None:
    """Return the role of `DATABASE_URL`, quoted; None if it names none, or the role that migrates, which needs no
    grants."""
    role = op.get_context().opts["runtime_role"]
    connection = op.get_bind()
    owner = connection.exec_driver_sql("SELECT current_user").scalar_one()
    return None if role in ("", owner) else connection.dialect.identifier_preparer.quote(role)


def upgrade() -> None:
    for name, column_type in USER_COLUMNS:
        op.add_column("users", sa.Column(name, column_type, nullable=True))
    # NOT VALID: the next revision checks the existing rows, without blocking reads or writes.
    op.execute(
        "ALTER TABLE users ADD CONSTRAINT ck_users_upstream_status"
        " CHECK (upstream_status IN ('active', 'suspended', 'deactivated')) NOT VALID"
    )
    op.create_table(
        "sign_ins",
        sa.Column("issuer", sa.Text(collation="C"), nullable=False),
        sa.Column("session_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sign_ins_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("issuer", "session_id", name="pk_sign_ins"),
    )
    op.create_index("ix_sign_ins_user_id_started_at", "sign_ins", ["user_id", "started_at"])
    op.create_index("ix_sign_ins_started_at", "sign_ins", ["started_at"])
    op.add_column("webhook_events", sa.Column("subject", sa.Text(collation="C"), nullable=True))
    op.add_column("service_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(ERASE_AUDIT_DETAILS)
    op.execute("REVOKE ALL ON FUNCTION erase_audit_details(text) FROM PUBLIC")
    if role := _runtime_role():
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON sign_ins TO {role}")
        op.execute(f"GRANT EXECUTE ON FUNCTION erase_audit_details(text) TO {role}")


def downgrade() -> None:
    op.execute("DROP FUNCTION erase_audit_details(text)")
    op.drop_column("service_keys", "last_used_at")
    op.drop_column("webhook_events", "subject")
    op.drop_table("sign_ins")
    op.drop_constraint(op.f("ck_users_upstream_status"), "users", type_="check")
    for name, _type in reversed(USER_COLUMNS):
        op.drop_column("users", name)
