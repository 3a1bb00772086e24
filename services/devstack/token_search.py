"""A search for tokens in places that must not contain any: as text, as hex and as base64.

`pg_dump` writes bytea as hex (`\\x7362…`), so a search for the text alone misses a token in a bytea column.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_SHORTEST_MARK: Final = 5
"""Fewest bytes that a mark may have. What is left of a shorter one in base64 is so short that it occurs anywhere by
chance."""


class Form(StrEnum):
    """Form in which a mark is written."""

    TEXT = "text"
    HEX = "hex"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Finding:
    """An occurrence of `mark` in `place`, written as `form`."""

    place: str
    mark: bytes
    form: Form


def search(places: Mapping[str, bytes], marks: Iterable[bytes]) -> list[Finding]:
    """Return the occurrences of marks in the contents of `places`, which are given by name; each mark and form is
    reported once per place.

    Contents are searched as they are: callers decompress compressed ones first. Base64 with a line break in the middle
    of a mark is not found. Raises ValueError for a mark of fewer than 5 bytes.
    """
    writings = {mark: list(_writings(mark)) for mark in marks}
    found = (
        Finding(place, mark, form)
        for place, content in places.items()
        for mark, forms in writings.items()
        for form, pattern in forms
        if pattern in content
    )
    return list(dict.fromkeys(found))


def _writings(mark: bytes) -> Iterator[tuple[Form, bytes]]:
    if len(mark) < _SHORTEST_MARK:
        raise ValueError(f"a mark needs at least {_SHORTEST_MARK} bytes: {mark!r}")
    yield Form.TEXT, mark
    yield Form.HEX, mark.hex().encode()
    yield Form.HEX, mark.hex().upper().encode()
    for bytes_before in range(3):
        yield Form.BASE64, _base64_core(mark, bytes_before, b"+/")
        yield Form.BASE64, _base64_core(mark, bytes_before, b"-_")


def _base64_core(mark: bytes, bytes_before: int, last_two: bytes) -> bytes:
    """Return the base64 characters that depend on the mark alone, when `bytes_before` bytes (mod 3) come before it.

    A character holds 6 bits (RFC 4648 section 4); one at the edge mixes the mark's bits with its neighbour's.
    """
    encoded = base64.b64encode(bytes(bytes_before) + mark, altchars=last_two)
    first = -(-bytes_before * 8 // 6)
    end = (bytes_before + len(mark)) * 8 // 6
    return encoded[first:end]
