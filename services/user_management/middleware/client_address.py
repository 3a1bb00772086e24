"""Finds the address of a request's client, behind reverse proxies."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.types import Scope

from services.user_management.settings import Network

MAX_HOPS: Final = 32
_HEADER: Final = b"x-forwarded-for"
_BRACKETS_OR_PORT: Final = re.compile(r"\[([^\]]*:[^\]]*)\](?::[0-9]{1,5})?|([^:\[]*):[0-9]{1,5}")
Address = IPv4Address | IPv6Address


def client_address(scope: Scope, trusted_networks: Sequence[Network]) -> str | None:
    """Return the client's address: the one nearest to us that is not in `trusted_networks`, the networks of our
    proxies. A peer that is no IP address is returned as it is; None if the peer has no address (a unix socket).

    Each proxy appends the address of its peer to X-Forwarded-For. So the header is read from the right, and an entry is
    believed only if the proxy that wrote it is trusted: what a caller puts there stands to the left of what the first
    proxy appended. Reading ends at an entry that is no address, and the last address before it is the client. If all
    entries are trusted, the leftmost is the client.
    """
    peer = (scope.get("client") or ("", 0))[0]
    hop = _address(peer)
    if hop is None:
        return peer or None
    if not trusted_networks:
        return str(hop)
    for entry in _forwarded_from_the_right(scope):
        if not any(hop in network for network in trusted_networks):
            break
        earlier = _address(entry)
        if earlier is None:
            break
        hop = earlier
    return str(hop)


def _forwarded_from_the_right(scope: Scope) -> Iterator[str]:
    """Return the entries of all X-Forwarded-For headers, which are one list (RFC 9110 section 5.3), from the right. If
    there are more than MAX_HOPS, the rest comes last, as one entry."""
    lines = [value for name, value in scope["headers"] if name == _HEADER]
    entries = b",".join(lines).decode("latin-1").rsplit(",", MAX_HOPS)
    return (entry.strip() for entry in reversed(entries))


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """Parse an address, alone or with a port (`192.0.2.1:443`, `[2001:db8::1]:443`); None if the text is no address.
    IPv4 in IPv6 becomes IPv4.

    An IPv6 zone (`%eth0`) is dropped: it is a name on one machine.
    """
    if match := _BRACKETS_OR_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
