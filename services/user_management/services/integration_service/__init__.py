"""Connections: making one, looking at it, ending it here and at the provider."""

from services.user_management.services.integration_service.connecting import (
    ConnectFlows,
    ConnectPolicy,
    ProviderReturn,
)
from services.user_management.services.integration_service.connections import IntegrationService
from services.user_management.services.integration_service.disconnecting import disconnect_all, release_grants
from services.user_management.services.integration_service.revocations import RevocationService

__all__ = [
    "ConnectFlows",
    "ConnectPolicy",
    "IntegrationService",
    "ProviderReturn",
    "RevocationService",
    "disconnect_all",
    "release_grants",
]
