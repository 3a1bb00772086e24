"""What identity needs: search keys, what upstream says apart from what was decided here, sign-ins, erasure.

Revision: 0004 after 0003
"""

import unicodedata

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BATCH = 1000

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
LIVE = "deleted_at IS NULL"
LAST_NAME_ALONE = "NOT starts_with(coalesce(email_normalized, ''), last_name_normalized)"
FIRST_NAME_ALONE = (
    "NOT starts_with(coalesce(email_normalized, ''), first_name_normalized)"
    " AND NOT starts_with(coalesce(last_name_normalized, ''), first_name_normalized)"
)
USER_INDEXES = (
    ("ix_users_live_email", ["email_normalized", "id"], LIVE),
    ("ix_users_live_last_name", ["last_name_normalized", "id"], f"{LIVE} AND {LAST_NAME_ALONE}"),
    ("ix_users_live_first_name", ["first_name_normalized", "id"], f"{LIVE} AND {FIRST_NAME_ALONE}"),
    ("ix_users_live_created_at", ["created_at", "id"], LIVE),
    ("ix_users_live_status", ["status", "created_at", "id"], LIVE),
    ("ix_users_deleted_at", ["deleted_at", "id"], "deleted_at IS NOT NULL"),
)


def _runtime_role() -> str | None:
    """The quoted role of `DATABASE_URL`; None where one role does everything and there is nothing to grant."""
    role = op.get_context().opts["runtime_role"]
    connection = op.get_bind()
    owner = connection.exec_driver_sql("SELECT current_user").scalar_one()
    return None if role in ("", owner) else connection.dialect.identifier_preparer.quote(role)


def _search_key(name: str | None) -> str | None:
    """As the service makes it at this revision; later changes to it come with a migration of their own."""
    if name is None:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def _fill_search_keys() -> None:
    """In Python, since what lower() makes of a letter depends on the cluster's locale."""
    connection = op.get_bind()
    select = sa.text(
        "SELECT id, first_name, last_name FROM users WHERE id > :after"
        " AND (first_name IS NOT NULL OR last_name IS NOT NULL) ORDER BY id LIMIT :batch"
    )
    update = sa.text("UPDATE users SET first_name_normalized = :first, last_name_normalized = :last WHERE id = :id")
    after = ""
    while rows := connection.execute(select, {"after": after, "batch": BATCH}).all():
        keys = [{"id": r.id, "first": _search_key(r.first_name), "last": _search_key(r.last_name)} for r in rows]
        connection.execute(update, keys)
        after = rows[-1].id


def _fill_upstream() -> None:
    """All there was until now came from upstream: nobody could edit a name here, and nobody else could suspend."""
    op.execute(
        "UPDATE users SET upstream_status = CASE status WHEN 'suspended' THEN 'suspended' ELSE 'active' END,"
        " upstream_profile = jsonb_build_object("
        "'first_name', first_name, 'last_name', last_name, 'profile_image_url', profile_image_url)"
        " WHERE upstream_updated_at IS NOT NULL"
    )


def upgrade() -> None:
    for name, column_type in USER_COLUMNS:
        op.add_column("users", sa.Column(name, column_type, nullable=True))
    op.create_check_constraint(
        op.f("ck_users_upstream_status"), "users", "upstream_status IN ('active', 'suspended', 'deactivated')"
    )
    _fill_search_keys()
    _fill_upstream()
    op.drop_index("ix_users_email_normalized", "users")
    for name, columns, where in USER_INDEXES:
        op.create_index(name, "users", columns, postgresql_where=sa.text(where))
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
    op.execute(
        "UPDATE webhook_events SET subject = payload #>> '{data,id}'"
        " WHERE event_type IN ('user.created', 'user.updated', 'user.deleted')"
    )
    op.create_index("ix_webhook_events_subject", "webhook_events", ["subject", "id"])
    op.add_column("service_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(ERASE_AUDIT_DETAILS)
    op.execute("REVOKE ALL ON FUNCTION erase_audit_details(text) FROM PUBLIC")
    if role := _runtime_role():
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON sign_ins TO {role}")
        op.execute(f"GRANT EXECUTE ON FUNCTION erase_audit_details(text) TO {role}")


def downgrade() -> None:
    op.execute("DROP FUNCTION erase_audit_details(text)")
    op.drop_column("service_keys", "last_used_at")
    op.drop_index("ix_webhook_events_subject", "webhook_events")
    op.drop_column("webhook_events", "subject")
    op.drop_table("sign_ins")
    for name, _columns, _where in reversed(USER_INDEXES):
        op.drop_index(name, "users")
    op.create_index("ix_users_email_normalized", "users", ["email_normalized"])
    op.drop_constraint(op.f("ck_users_upstream_status"), "users", type_="check")
    for name, _type in reversed(USER_COLUMNS):
        op.drop_column("users", name)
