"""The group of services that report on the process, for operators and their tools."""

from collections.abc import Callable
from dataclasses import dataclass

from services.user_management.container.resources import Resources
from services.user_management.services.health_service import HealthService, Phase
from services.user_management.services.metrics_service import MetricsService


@dataclass(frozen=True, kw_only=True)
class OperationServices:
    """Services for health and metrics."""

    health: HealthService
    metrics: MetricsService


def build_operations(resources: Resources, *, phase: Callable[[], Phase]) -> OperationServices:
    """Build the services for operators. `phase` returns the phase of the process: starting, serving or draining."""
    return OperationServices(
        health=HealthService(
            resources.database,
            resources.redis,
            phase=phase,
            is_rate_limiter_degraded=lambda: resources.rate_limits.degraded,
        ),
        metrics=MetricsService(resources.database, resources.providers),
    )
