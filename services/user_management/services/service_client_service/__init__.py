"""Sibling services: their keys, their grants, and who is calling."""

from services.user_management.services.service_client_service.administration import ServiceClientService
from services.user_management.services.service_client_service.keys import KEY_PREFIX, ServiceCredential
from services.user_management.services.service_client_service.usage import KeyUsage

__all__ = ["KEY_PREFIX", "KeyUsage", "ServiceClientService", "ServiceCredential"]
