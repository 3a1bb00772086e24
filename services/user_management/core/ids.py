"""Identifiers made by us."""

import secrets
import time
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT_RFC_9562 = 0b10 << 62


def uuid7() -> UUID:
    """A UUID version 7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    Rows that are inserted together lie together in the primary key, and append-only tables are partitioned by it.
    """
    milliseconds = time.time_ns() // 1_000_000
    random_bits = secrets.randbits(74)
    upper = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    return UUID(
        int=upper | _VERSION_7 | ((random_bits >> 62) << 64) | _VARIANT_RFC_9562 | (random_bits & ((1 << 62) - 1))
    )
