"""The periodic check of integrations and providers, and of the scopes that integrations must cover."""

from services.user_management.services.integration_health_service.check import (
    CHECK_PERIOD_SECONDS,
    IntegrationHealthService,
)
from services.user_management.services.integration_health_service.examination import Examination
from services.user_management.services.integration_health_service.scope_enforcement import ScopeEnforcement

__all__ = ["CHECK_PERIOD_SECONDS", "Examination", "IntegrationHealthService", "ScopeEnforcement"]
