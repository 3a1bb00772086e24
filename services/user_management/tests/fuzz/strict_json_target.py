"""Fuzz target: what strict JSON accepts has the same value for Python's `json`, and what `storable` returns can be
stored in Postgres."""

import json
from collections.abc import Iterator
from typing import Any

from services.user_management.utils import strict_json


def seeds() -> list[bytes]:
    """Return inputs on both sides of the limits of what is accepted."""
    return [
        b'{"type": "user.created", "data": {"id": "user_1", "n": [1, -0.5e10, true, null]}}',
        b'"\\ud83d\\ude00 \\ud800 \\u0000"',
        b'"\\\\u0000"',
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        b"[" * 100_000,
        b"1" * 4301,
        b"-1e400",
    ]


def fuzz_one(data: bytes) -> None:
    """Read `data`. If it is accepted, raises AssertionError when `json.loads` reads another value, when the value
    changes after it is written and read again, or when a storable string has a NUL; UnicodeEncodeError when one has a
    lone surrogate."""
    try:
        value = strict_json.loads(data)
    except strict_json.StrictJSONError:
        return
    assert value == json.loads(data), "another parser reads something else"
    assert strict_json.loads(json.dumps(value, allow_nan=False).encode()) == value, "written again it is another value"
    for text in _texts(strict_json.storable(value)):
        assert b"\x00" not in text.encode("utf-8"), "not storable"


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in `value`, including the names of members."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
