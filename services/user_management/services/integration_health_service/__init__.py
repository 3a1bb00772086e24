"""The periodic check: are the connections alive, are the providers, do the connections still cover what is required."""

from services.user_management.services.integration_health_service.check import (
    CHECK_PERIOD_SECONDS,
    IntegrationHealthService,
)
from services.user_management.services.integration_health_service.examination import Examination
from services.user_management.services.integration_health_service.scope_enforcement import ScopeEnforcement

__all__ = ["CHECK_PERIOD_SECONDS", "Examination", "IntegrationHealthService", "ScopeEnforcement"]
