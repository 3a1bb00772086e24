"""The type of JSON documents that the service passes on without looking into them."""

from collections.abc import Mapping
from typing import Any, TypeAlias

JSONObject: TypeAlias = Mapping[str, Any]
"""A JSON object from outside, or for a `jsonb` column. Never a row: rows are typed (`queries/rows.py`)."""
