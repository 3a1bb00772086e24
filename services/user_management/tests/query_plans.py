"""Postgres's plan for a statement, and the scans in it that read a whole table or index."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

_EXPLAIN = """
CREATE OR REPLACE FUNCTION pg_temp.explain(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END $$
"""
_INDEX_SCANS = frozenset({"Index Scan", "Index Only Scan", "Bitmap Index Scan"})
_TAKE_ALL = frozenset({"Sort", "Aggregate", "Hash", "Materialize", "Bitmap Heap Scan"})


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as `FORMAT JSON` gives it."""

    root: dict[str, Any]

    @classmethod
    def of_json(cls, explained: str | list[Any]) -> "Plan":
        (answer,) = json.loads(explained) if isinstance(explained, str) else explained
        return cls(answer["Plan"])

    def nodes(self, node: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield `node` (None: the root) and all nodes below it, from the top."""
        node = self.root if node is None else node
        yield node
        for child in node.get("Plans", []):
            yield from self.nodes(child)

    def tables_read_whole(self, indexes: "Indexes", *, many: int) -> set[str]:
        """Return the tables (or indexes, for bitmaps) that a scan reads whole, or of which it finds at least `many`
        rows by the planner's estimate. An index scan without a filter that a LIMIT ends early does not count."""
        return {
            node.get("Relation Name") or node["Index Name"]
            for node, stops_early in self._scans(self.root, stops_early=False)
            if _reads_whole(node, indexes, many=many, stops_early=stops_early)
        }

    def _scans(self, node: dict[str, Any], *, stops_early: bool) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield the scans, each with whether a LIMIT above ends it early. A LIMIT does not do so through a node that
        first takes all rows, such as a sort."""
        kind = node["Node Type"]
        if kind == "Seq Scan" or kind in _INDEX_SCANS:
            yield node, stops_early
        stops_early = kind == "Limit" or (stops_early and kind not in _TAKE_ALL)
        for child in node.get("Plans", []):
            yield from self._scans(child, stops_early=stops_early)

    def rows_looked_at(self) -> int:
        """Return the most rows that one scan of an executed plan (EXPLAIN ANALYZE) went through; 0 without a scan."""
        scans = [node for node in self.nodes() if "Relation Name" in node or "Index Name" in node]
        looked_at = (
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans
        )
        return round(max(looked_at, default=0))


def _reads_whole(node: dict[str, Any], indexes: "Indexes", *, many: int, stops_early: bool) -> bool:
    if node["Node Type"] == "Seq Scan":
        return True
    if stops_early and "Filter" not in node:
        return False
    return not indexes.narrow(node) or node["Plan Rows"] >= many


@dataclass(frozen=True, slots=True)
class Indexes:
    """What Postgres's catalogue says about the existing indexes: `first_column` maps each index's name to the column or
    expression that it begins with, and `partial` holds the names of the partial indexes."""

    first_column: dict[str, str]
    partial: frozenset[str]

    @classmethod
    async def read(cls, connection: "asyncpg.Connection[asyncpg.Record]") -> "Indexes":
        """Read the indexes of every table and of every partition."""
        rows = await connection.fetch(
            "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid, 1, true) AS first,"
            " indpred IS NOT NULL AS partial FROM pg_index"
        )
        return cls({row["name"]: row["first"] for row in rows}, frozenset(r["name"] for r in rows if r["partial"]))

    def narrow(self, node: dict[str, Any]) -> bool:
        """Tell whether the scan reads only a part of its index: by a condition on the first column (Postgres 18 also
        takes one on a later column alone, and walks on), or without any condition, if the index is partial, which is a
        condition in itself."""
        name = node["Index Name"]
        if "Index Cond" not in node:
            return name in self.partial
        return re.search(rf"\b{re.escape(self.first_column[name])}\b", node["Index Cond"]) is not None


async def generic_plan(connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> Plan:
    """Return the generic plan, for any values of the statement's parameters."""
    # Inside a function, since the driver would want values for the parameters.
    await connection.execute(_EXPLAIN)
    return Plan.of_json(await connection.fetchval("SELECT pg_temp.explain($1)", statement))
