"""Give the webhook subscriptions that services with `admin` made to those services: until now they were nobody's.

What users made stays theirs by `created_by`. Names of services and ids of users cannot be mistaken for each other: the
latter have an underscore. What was parked while a service was disabled or not permitted has its time back: whether its
owner may hear is looked at when it is claimed. Taking this back leaves both: nobody is told more by it.

Revision: 0010 after 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE webhook_subscriptions s SET client_id = c.id FROM service_clients c"
        ' WHERE s.client_id IS NULL AND c.name = s.created_by COLLATE "C"'
    )
    op.execute(
        "UPDATE webhook_deliveries d SET next_attempt_at = now() FROM webhook_subscriptions s"
        " WHERE s.id = d.subscription_id AND s.status = 'active' AND d.state = 'pending' AND d.next_attempt_at IS NULL"
    )


def downgrade() -> None:
    """Nothing to take back."""
