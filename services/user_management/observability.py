"""Our Prometheus metrics, in a registry of their own: the default one is everybody's who is imported."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY: Final = CollectorRegistry()

RATE_LIMITER_DEGRADED: Final = Gauge(
    "user_management_rate_limiter_degraded",
    "1 while Redis does not answer and each process counts requests for itself",
    registry=REGISTRY,
)
RATE_LIMITED: Final = Counter(
    "user_management_rate_limited_total", "Requests refused with 429", labelnames=["class"], registry=REGISTRY
)
PROVIDER_BREAKER_OPEN: Final = Gauge(
    "user_management_provider_breaker_open",
    "1 while this process calls a provider no more, because it failed again and again",
    labelnames=["provider"],
    registry=REGISTRY,
)
