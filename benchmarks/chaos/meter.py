"""Scrapes the service's counter of integrations that were lost to an interrupted refresh, as Prometheus would, and
remembers when the counter had first reached each number."""

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
    """Remembers when a scrape first showed that the count of interrupted integrations at a kind of provider had reached
    a number."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._client = client
        self._urls = urls
        self._reached: dict[tuple[Kind, int], datetime] = {}

    def seen_at(self, kind: Kind, number: int | None) -> datetime | None:
        """Return when a scrape first counted `number` interrupted integrations of the kind, or more; None if none did,
        or if `number` is None."""
        return None if number is None else self._reached.get((kind, number))

    async def watch(self) -> None:
        """Once a second, without end, scrape the first of the URLs that can be reached (others may be restarting)."""
        while True:
            for url in self._urls:
                with suppress(httpx.TransportError):
                    self.note(interrupted((await self._client.get(f"{url}/metrics")).text), datetime.now(UTC))
                    break
            await asyncio.sleep(SCRAPE_SECONDS)

    def note(self, counts: Mapping[Kind, int], at: datetime) -> None:
        """Record a scrape: `at` becomes the time of each number up to a kind's count that had none yet."""
        for kind, count in counts.items():
            for number in range(1, count + 1):
                self._reached.setdefault((kind, number), at)


def interrupted(text: str) -> dict[Kind, int]:
    """Return from the text of `/metrics` how many integrations of each kind have become `needs_reauth` because a
    refresh was interrupted. Kinds without such a line are left out."""
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
    """Run a meter that scrapes until the block ends, and yield it. If scraping failed before that and the block itself
    raises nothing, raise the scraping error when the block ends."""
    meter = Meter(client, urls)
    task = asyncio.create_task(meter.watch())
    try:
        yield meter
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
