"""Use cases on integrations, users' linked accounts at providers: connect an account, show and change it, disconnect
it, and revoke its consent at the provider."""

from services.user_management.services.integration_service.confirming import Confirmations
from services.user_management.services.integration_service.connecting import FLOW_PRUNING, ConnectFlows, ConnectPolicy
from services.user_management.services.integration_service.disconnecting import disconnect_all, release_tokens
from services.user_management.services.integration_service.integrations import IntegrationService
from services.user_management.services.integration_service.provider_returns import ProviderReturn
from services.user_management.services.integration_service.revocations import REVOCATION_PRUNING, RevocationService

__all__ = [
    "FLOW_PRUNING",
    "REVOCATION_PRUNING",
    "Confirmations",
    "ConnectFlows",
    "ConnectPolicy",
    "IntegrationService",
    "ProviderReturn",
    "RevocationService",
    "disconnect_all",
    "release_tokens",
]
