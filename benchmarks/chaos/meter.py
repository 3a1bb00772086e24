"""What Prometheus would have seen, and when: the counter of interrupted refreshes, scraped like any other."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.sandbox.providers import KINDS, Kind, provider_name

SCRAPE_SECONDS: Final = 1.0
_FAMILY: Final = "user_management_connection_transitions"
_INTERRUPTED: Final = {"status": "needs_reauth", "reason": "refresh_interrupted"}


class Meter:
    """Scrapes until it is told to end."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._client = client
        self._urls = urls
        self._reached: dict[tuple[Kind, int], datetime] = {}

    def seen_at(self, kind: Kind, number: int | None) -> datetime | None:
        """When a scrape first counted `number` interrupted connections of the kind; None: none has."""
        return None if number is None else self._reached.get((kind, number))

    async def watch(self) -> None:
        """Scrape for ever; an API that is being restarted is left out."""
        while True:
            for url in self._urls:
                with suppress(httpx.TransportError):
                    self.note(interrupted((await self._client.get(f"{url}/metrics")).text), datetime.now(UTC))
                    break
            await asyncio.sleep(SCRAPE_SECONDS)

    def note(self, counts: Mapping[Kind, int], at: datetime) -> None:
        """A scrape: whoever it is the first to count was seen then."""
        for kind, count in counts.items():
            for number in range(1, count + 1):
                self._reached.setdefault((kind, number), at)


def interrupted(text: str) -> dict[Kind, int]:
    """How many connections have needed their user because a refresh was interrupted, as `/metrics` says it."""
    kinds = {provider_name(kind): kind for kind in KINDS}
    return {
        kinds[sample.labels["provider"]]: int(sample.value)
        for family in text_string_to_metric_families(text)
        if family.name == _FAMILY
        for sample in family.samples
        if sample.labels.get("provider") in kinds and _INTERRUPTED.items() <= sample.labels.items()
    }


@asynccontextmanager
async def metering(client: httpx.AsyncClient, urls: Sequence[str]) -> AsyncIterator[Meter]:
    """A meter that scrapes until the end of the block."""
    meter = Meter(client, urls)
    task = asyncio.create_task(meter.watch())
    try:
        yield meter
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
