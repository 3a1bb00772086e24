"""The table of counters of what happened to integrations, which every process of the API shows as metrics."""

import sqlalchemy as sa

from services.user_management.core.integration_counts import IntegrationCounter
from services.user_management.models.base import metadata, one_of

connection_counters = sa.Table(
    "connection_counters",
    metadata,
    sa.Column("counter", sa.Text(collation="C"), primary_key=True),
    sa.Column("provider", sa.Text(collation="C"), primary_key=True),
    sa.Column("outcome", sa.Text(collation="C"), primary_key=True),
    sa.Column("reason", sa.Text(collation="C"), primary_key=True),
    sa.Column("shard", sa.SmallInteger(), primary_key=True, autoincrement=False),
    sa.Column("total", sa.BigInteger(), nullable=False),
    one_of("counter", IntegrationCounter),
)
"""One row per counter, labels and shard (one of several rows among which the writers of a count are spread), written in
the transaction of what it counts. The number of rows is bounded: closed sets of labels, times providers, times
shards."""
