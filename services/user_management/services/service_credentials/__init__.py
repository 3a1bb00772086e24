"""Service keys, with which sibling services authenticate: issues keys, finds the service that a key belongs to, and
records when each was last used."""

from services.user_management.services.service_credentials.authentication import ServiceAuthentication
from services.user_management.services.service_credentials.keys import KEY_PREFIX, ServiceCredential, issue_key
from services.user_management.services.service_credentials.usage import key_usage

__all__ = ["KEY_PREFIX", "ServiceAuthentication", "ServiceCredential", "issue_key", "key_usage"]
