"""The group of services that report on the process, for operators and their tools."""

from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.services.health_service import HealthService
from services.user_management.services.metrics_service import MetricsService


@dataclass(frozen=True, kw_only=True)
class OperationServices:
    """Services for health and metrics."""

    health: HealthService
    metrics: MetricsService


def build_operations(resources: Resources) -> OperationServices:
    """Build the services for operators."""
    return OperationServices(
        health=HealthService(resources.database, resources.redis, lambda: resources.rate_limits.degraded),
        metrics=MetricsService(resources.database, resources.providers),
    )
