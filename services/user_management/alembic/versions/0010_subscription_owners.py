"""Set the owner (`webhook_subscriptions.client_id`) of subscriptions that services with `admin` made: they had none.

Subscriptions that users made stay theirs by `created_by`. Names of services and ids of users cannot be mistaken for
each other: only ids of users have an underscore. In `webhook_deliveries`, all parked deliveries (pending, with no time
of the next attempt) of active subscriptions become due now: they were parked because a service was disabled or not
permitted, which from now on is checked when a delivery is claimed. A downgrade changes neither table back: what stays
lets no subscriber hear more.

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
    """Change nothing: owners and due times may stay."""
