"""The type of JSON documents that the service passes on without looking into them."""

from typing import Any, TypeAlias

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object that came from outside or goes into a `jsonb` column. It is never a row: rows are typed
(`queries/rows.py`)."""
