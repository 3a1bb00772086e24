"""Statements on the counters of what happened to integrations, which are raised in the transaction of what they
count."""

import random
from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.integration_counts import IntegrationCount, IntegrationCounter

SHARDS: Final = 16
"""How many rows share the count of one counter with its labels, so that writers seldom wait for each other: a row stays
locked from its update to the end of the commit, and a thousand refreshes may be under way."""

# Rows are written in one order, so that two transactions that count the same things cannot wait for each other.
_ADD = sa.text("""
INSERT INTO connection_counters AS c (counter, provider, outcome, reason, shard, total)
SELECT counter, provider, outcome, reason, :shard, total
FROM unnest(:counters, :providers, :outcomes, :reasons, :totals) AS added (counter, provider, outcome, reason, total)
ORDER BY counter COLLATE "C", provider COLLATE "C", outcome COLLATE "C", reason COLLATE "C"
ON CONFLICT (counter, provider, outcome, reason, shard) DO UPDATE SET total = c.total + excluded.total
""").bindparams(
    sa.bindparam("shard", type_=sa.SmallInteger()),
    sa.bindparam("counters", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("providers", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("outcomes", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("reasons", type_=sa.ARRAY(sa.Text())),
    sa.bindparam("totals", type_=sa.ARRAY(sa.BigInteger())),
)

_TOTALS = sa.text("""
SELECT counter, provider, outcome, reason, sum(total)::bigint AS total
FROM connection_counters GROUP BY counter, provider, outcome, reason
""")


async def add(connection: AsyncConnection, counted: Mapping[IntegrationCount, int]) -> None:
    """Raise each counter by its number. This should be the last statement before a commit: other transactions that
    raise the same counters may have to wait until then."""
    counts = list(counted)
    parameters = {
        "shard": random.randrange(SHARDS),  # noqa: S311 - spreads the writers
        "counters": [count.counter.value for count in counts],
        "providers": [count.provider for count in counts],
        "outcomes": [count.outcome for count in counts],
        "reasons": [count.reason for count in counts],
        "totals": list(counted.values()),
    }
    await connection.execute(_ADD, parameters)


async def read_totals(connection: AsyncConnection) -> dict[IntegrationCount, int]:
    """Read the totals of all counters that were ever raised: a few hundred."""
    rows = await connection.execute(_TOTALS)
    return {
        IntegrationCount(IntegrationCounter(row.counter), row.provider, row.outcome, row.reason): row.total
        for row in rows
    }
