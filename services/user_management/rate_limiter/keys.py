"""Builds the names of rate-limit buckets: from the rate class and a key, which says who is counted."""

from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final

from services.user_management.enums import RateClass

MAX_KEY_CHARACTERS: Final = 128
UNKNOWN_ADDRESS: Final = "unknown"
"""The key of peers without an address (on a unix socket); they share one bucket."""
_HOST_BITS: Final = 64


def bucket_name(rate_class: RateClass, key: str) -> str:
    """Return `{rl}:<class>:<key>`. A key that is long or not ASCII is replaced by its SHA-256, so that no caller can
    fill the memory or break the encoding by choosing a key.

    The braces are Redis Cluster's hash tag: all buckets are in one slot, so that one script may use several.
    """
    if len(key) > MAX_KEY_CHARACTERS or not key.isascii():
        key = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{{rl}}:{rate_class}:{key}"


def address_key(address: str | None) -> str:
    """Return the key for a client's address: the address itself, for IPv6 its /64 network, since one subscriber has
    2**64 addresses (RFC 6177); UNKNOWN_ADDRESS for None."""
    if address is None:
        return UNKNOWN_ADDRESS
    if ":" not in address:
        return address
    try:
        host = IPv6Address(address)
    except ValueError:
        return address
    return f"{IPv6Address(int(host) >> _HOST_BITS << _HOST_BITS)}/64"
