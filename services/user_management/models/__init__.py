"""The tables of the database. Importing this package registers all of them in `metadata`."""

from services.user_management.models.audit import AuditDetail, AuditLog
from services.user_management.models.base import metadata
from services.user_management.models.integration import Integration, OAuthFlow, ProviderHealth, TokenRevocation
from services.user_management.models.integration_counter import connection_counters
from services.user_management.models.job import JobRun
from services.user_management.models.outbox import OutboxEvent
from services.user_management.models.preferences import PreferenceRevision, UserPreferences
from services.user_management.models.service_client import ServiceClient, ServiceGrant, ServiceKey
from services.user_management.models.token import EncryptedToken, EncryptionKey, TokenRead
from services.user_management.models.user import User, erased_subjects, sign_ins, user_identities
from services.user_management.models.webhook import WebhookEvent
from services.user_management.models.webhook_subscription import WebhookDelivery, WebhookSubscription

__all__ = [
    "AuditDetail",
    "AuditLog",
    "EncryptedToken",
    "EncryptionKey",
    "Integration",
    "JobRun",
    "OAuthFlow",
    "OutboxEvent",
    "PreferenceRevision",
    "ProviderHealth",
    "ServiceClient",
    "ServiceGrant",
    "ServiceKey",
    "TokenRead",
    "TokenRevocation",
    "User",
    "UserPreferences",
    "WebhookDelivery",
    "WebhookEvent",
    "WebhookSubscription",
    "connection_counters",
    "erased_subjects",
    "metadata",
    "sign_ins",
    "user_identities",
]
