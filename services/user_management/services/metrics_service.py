"""The text that Prometheus reads (scrapes): the metrics of this process, and the counters of integrations in Postgres.

Workers are not scraped, and the metrics of a process that is killed are lost. So what must not be missed is counted in
Postgres, in the transaction in which it happens, and every copy of the API shows the same figures.
"""

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from services.user_management.core.integration_counts import IntegrationCount, expected_of
from services.user_management.database import Database, is_unavailable
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.observability import REGISTRY, IntegrationCounters
from services.user_management.queries import integration_counter as queries

READ_SECONDS: Final = 1.0
"""How long a scrape waits for Postgres; Prometheus gives up after ten by default."""


class MetricsService:
    """Produces the body of `/metrics`."""

    def __init__(self, database: Database, providers: ProviderRegistry) -> None:
        self._database = database
        self._counters = IntegrationCounters()
        self._registry = CollectorRegistry()
        self._registry.register(self._counters)
        self._expected: dict[IntegrationCount, int] = {
            count: 0 for provider in providers for count in expected_of(provider.name)
        }
        # Scrapes take turns, so that a flood of them holds only one database connection.
        self._turn = asyncio.Lock()

    async def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format.

        While Postgres does not answer within a second, the counters in it are shown as they were last read, or left out
        if this process has never read them; a gauge shows that they are not current.
        """
        try:
            async with asyncio.timeout(READ_SECONDS), self._turn, self._database.reading() as connection:
                totals = await queries.read_totals(connection)
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._counters.is_current = False
        else:
            self._counters.show({**self._expected, **totals})
        return generate_latest(REGISTRY) + generate_latest(self._registry)
