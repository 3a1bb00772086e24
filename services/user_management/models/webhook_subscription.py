"""The tables of outgoing webhooks: which address gets which events, and each message that is sent there."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.enums import DeliveryState, SubscriptionStatus
from services.user_management.models.base import JSONB, Bytes, PgUUID, foreign_key, index, one_of, table


class WebhookSubscription(ormar.Model):
    """An address to which events are sent. The subscription belongs to the service `client_id`; if that is null, to the
    user who made it (`created_by`)."""

    ormar_config = table(
        "webhook_subscriptions",
        foreign_key("client_id", "service_clients.id"),
        foreign_key("secret_key_version", "encryption_keys.version", ondelete="RESTRICT"),
        foreign_key("former_secret_key_version", "encryption_keys.version", ondelete="RESTRICT"),
        one_of("status", SubscriptionStatus),
        index("ix_webhook_subscriptions_client_id", "client_id"),
    )

    id: UUID = PgUUID(primary_key=True)
    client_id: UUID | None = PgUUID(nullable=True)
    created_by: str = ormar.Text(nullable=False)
    url: str = ormar.Text(nullable=False)
    description: str | None = ormar.Text(nullable=True)
    event_types: Any = JSONB(nullable=False)
    """The types of events that are sent, where `user.*` and `integration.*` stand for all that begin so; empty: all
    types."""
    secret_ciphertext: bytes = Bytes(max_length=1024, nullable=False)
    secret_key_version: int = ormar.Integer(nullable=False)
    former_secret_ciphertext: bytes | None = Bytes(max_length=1024, nullable=True)
    """The former secret, which signs beside the present one until `former_secret_until`."""
    former_secret_key_version: int | None = ormar.Integer(nullable=True)
    former_secret_until: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    status: str = ormar.Text(nullable=False)
    disabled_reason: str | None = ormar.Text(nullable=True)
    failing_since: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the first of the present failures in a row happened; null if there are none."""
    last_sequence: int = ormar.BigInteger(nullable=False)
    """The number of the subscription's newest delivery."""
    version: int = ormar.Integer(nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    updated_at: datetime = ormar.DateTime(timezone=True, nullable=False)


class WebhookDelivery(ormar.Model):
    """One event for one subscription. `sequence` counts up by one within a subscription, so that gaps show."""

    ormar_config = table(
        "webhook_deliveries",
        foreign_key("subscription_id", "webhook_subscriptions.id"),
        one_of("state", DeliveryState),
        sa.UniqueConstraint("subscription_id", "event_id"),
        sa.UniqueConstraint("subscription_id", "sequence"),
        index("ix_webhook_deliveries_due", "subscription_id", "next_attempt_at", "id", where="state = 'pending'"),
    )

    id: UUID = PgUUID(primary_key=True)
    subscription_id: UUID = PgUUID(nullable=False)
    event_id: UUID = PgUUID(nullable=False)
    event_type: str = ormar.Text(nullable=False)
    sequence: int = ormar.BigInteger(nullable=False)
    body: str = ormar.Text(nullable=False)
    """The document that is signed and sent, byte for byte the same at each attempt."""
    state: str = ormar.Text(nullable=False)
    attempts: int = ormar.Integer(nullable=False)
    next_attempt_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    """When the delivery is due; while a worker tries it, the end of that worker's lease. Null: it is finished, or its
    subscription is disabled."""
    last_status: int | None = ormar.Integer(nullable=True)
    last_error: str | None = ormar.Text(nullable=True)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    delivered_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
