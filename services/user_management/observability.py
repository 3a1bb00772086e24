"""Our Prometheus metrics, in a registry of their own: any imported library can add to the default one."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from services.user_management.core.integration_counts import IntegrationCount, IntegrationCounter

REGISTRY: Final = CollectorRegistry()

RATE_LIMITER_DEGRADED: Final = Gauge(
    "user_management_rate_limiter_degraded",
    "1 while Redis does not answer and each process counts requests for itself",
    registry=REGISTRY,
)
RATE_LIMITED: Final = Counter(
    "user_management_rate_limited_total", "Requests refused with 429", labelnames=["class"], registry=REGISTRY
)
UNRECORDED_USES: Final = Counter(
    "user_management_unrecorded_uses_total",
    "Uses whose time was not written, because Postgres was away or busy; the requests themselves went on",
    labelnames=["thing"],
    registry=REGISTRY,
)
PROVIDER_BREAKER_OPEN: Final = Gauge(
    "user_management_provider_breaker_open",
    "1 while this process does not call a provider, because it failed again and again",
    labelnames=["provider"],
    registry=REGISTRY,
)

_INTEGRATION_FAMILIES: Final = {
    IntegrationCounter.TRANSITION: (
        "connection_transitions",
        "Changes of an integration's status, by all processes",
        ("provider", "status", "reason"),
    ),
    IntegrationCounter.REFRESH: (
        "refreshes",
        "Refreshes that ended, by all processes; an outcome is counted when it is kept",
        ("provider", "outcome"),
    ),
    IntegrationCounter.MISCONFIGURED: (
        "provider_misconfigured",
        "How often a provider refused our client, seen by any process",
        ("provider",),
    ),
}
"""Name, help text and labels of each counter; the labels are the fields of `IntegrationCount`, in their order."""


class IntegrationCounters(Collector):
    """The counters of integrations as they were last read from Postgres, where all processes add to them. `is_current`
    is False if the last attempt to read them failed, or there was none."""

    def __init__(self) -> None:
        self.is_current = False
        self._totals: Mapping[IntegrationCount, int] | None = None

    def show(self, totals: Mapping[IntegrationCount, int]) -> None:
        """Show `totals`, which were just read from Postgres, from now on."""
        self._totals = totals
        self.is_current = True

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families. Before the counters were ever read they are left out: Prometheus would take a
        counter that falls to 0 for a restart."""
        yield GaugeMetricFamily(
            "user_management_connection_counters_current",
            "0 while Postgres does not answer and the counters of integrations are older than this scrape",
            value=float(self.is_current),
        )
        if self._totals is None:
            return
        families = {
            counter: CounterMetricFamily(f"user_management_{name}", text, labels=labels)
            for counter, (name, text, labels) in _INTEGRATION_FAMILIES.items()
        }
        for count, total in self._totals.items():
            _, _, labels = _INTEGRATION_FAMILIES[count.counter]
            values = [count.provider, count.outcome, count.reason]
            families[count.counter].add_metric(values[: len(labels)], total)
        yield from families.values()
