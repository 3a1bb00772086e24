"""Parses JSON as strictly as RFC 8259 means it: no NaN, no duplicate names, and limits on nesting and on the numbers of
values and of members. Also replaces what Postgres cannot store."""

import json
import math
import re
from typing import Any, Final

MAX_DEPTH: Final = 32
MAX_PUNCTUATION: Final = 1 << 13
"""The most commas and opening brackets and braces, those in strings included, which bounds the number of values. Parser
and validation are compiled and hold the interpreter for the whole document, whatever thread they run in: at this limit
for 7 ms of CPU (thousands of objects), and for 21 ms if a schema reports an error for each value. The largest batch of
token reads has 7,100, without those in texts."""
MAX_MEMBERS: Final = 1024
"""The most members of one object: as many as Clerk's metadata (8 KB) may have. This bounds the number of errors that
one object can cause."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class StrictJSONError(ValueError):
    """Raised for input that is not one strict JSON document; the message says why, without quoting the input."""


def loads(raw: bytes) -> Any:
    """Parse one JSON document in UTF-8. Raises StrictJSONError for anything else, and beyond a limit."""
    containers = raw.count(b"[") + raw.count(b"{")
    if containers + raw.count(b",") > MAX_PUNCTUATION:
        raise StrictJSONError("too many values")
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise StrictJSONError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise StrictJSONError("nested too deep") from None
    except StrictJSONError:
        raise
    except ValueError:
        # Integers of more digits than Python converts.
        raise StrictJSONError("a number is too long") from None
    if containers > MAX_DEPTH:
        _check_depth(value)
    return value


def storable(value: Any) -> Any:
    """Return `value` with U+FFFD in place of every character that JSON allows and Postgres cannot store (NUL and half a
    surrogate pair), in names too. This is for input that we cannot send back to its author; a caller's own input is
    refused instead."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_MEMBERS:
        raise StrictJSONError("too many members in one object")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictJSONError("a name occurs twice in one object")
    return members


def _finite(text: str) -> float:
    """Read a float, but raise StrictJSONError for a number like 1e400: it would become infinity, which JSON cannot
    express."""
    number = float(text)
    if not math.isfinite(number):
        raise StrictJSONError("a number is too large")
    return number


def _refuse_constant(name: str) -> Any:
    raise StrictJSONError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise StrictJSONError("nested too deep")
