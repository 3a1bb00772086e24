"""UUIDs of version 7, by which this service names its rows."""

import secrets
import time
from datetime import datetime
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT_RFC_9562 = 0b10 << 62
_NANOSECONDS = 1_000_000
"""Nanoseconds in a millisecond."""


def uuid7() -> UUID:
    """Return a new UUID version 7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, 12 bits of their fraction
    (section 6.2, method 3), then 62 random bits.

    Rows that are inserted together lie together in the index of the primary key, and append-only tables are partitioned
    by it. The fraction keeps the rows of one process in order, since it may record several token reads in a
    millisecond.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), _NANOSECONDS)
    fraction = (nanoseconds << 12) // _NANOSECONDS
    upper = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    return UUID(int=upper | _VERSION_7 | (fraction << 64) | _VARIANT_RFC_9562 | secrets.randbits(62))


def uuid7_floor(moment: datetime) -> UUID:
    """Return the smallest UUID version 7 of the millisecond of `moment`: ids made before this millisecond sort below
    it."""
    milliseconds = int(moment.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    return UUID(int=(milliseconds << 80) | _VERSION_7 | _VARIANT_RFC_9562)
