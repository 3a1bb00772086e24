"""The type of JSON documents that the service passes on without looking into them."""

from typing import Any, TypeAlias

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object from outside, or for a `jsonb` column. Never a row: rows are typed (`queries/rows.py`)."""
