"""Decides where outgoing webhooks may go: to public addresses, and outside production to this machine too.

Without this check, whoever chooses a URL for us to call could reach hosts that only we can reach (server-side request
forgery).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

LOWEST_FREE_PORT: Final = 1024
RESOLVE_SECONDS: Final = 3.0
RESOLVER_THREADS: Final = 16

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A function that returns the addresses of a host (for a port). Raises OSError, UnicodeError."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""The global unicast range of IPv6 (RFC 4291 section 2.4). Mapped and translated IPv4 (`::ffff:0:0/96`,
`64:ff9b::/96`, `64:ff9b:1::/48`), link-local, unique local and multicast addresses lie outside."""
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # What clouds offer to their own machines at addresses that look public. Their other addresses of this kind are
        # link-local (169.254.0.0/16), shared (100.64.0.0/10), unique local (fc00::/7) or in 192.0.0.0/24.
        "168.63.129.16/32",  # Azure: host agent, DNS and health probes of the machine
        "161.26.0.0/16",  # IBM Cloud: its services on the private network
        "166.8.0.0/14",  # the same
        "199.36.153.4/30",  # Google Cloud: restricted.googleapis.com
        "199.36.153.8/30",  # Google Cloud: private.googleapis.com
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # IETF protocol assignments: Teredo (RFC 4380), ORCHID, benchmarking
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056), which carries an IPv4 address
        "3fff::/20",  # documentation (RFC 9637)
    )
)


class TargetProblem(StrEnum):
    """Why a target is refused."""

    URL = "url_refused"
    ADDRESS = "address_refused"
    NOT_RESOLVED = "not_resolved"


class TargetRefusedError(Exception):
    """Raised for a target that is refused; nothing was sent. `problem` may be recorded and shown. The error does not
    contain the addresses that were looked up, so that whoever chose the name does not learn them."""

    def __init__(self, problem: TargetProblem) -> None:
        self.problem = problem
        super().__init__(problem.value)


class SystemResolver:
    """This machine's resolver, called in RESOLVER_THREADS threads of its own. It sets no time limit; callers do.

    A look-up that hangs occupies its thread after its caller has stopped waiting, and the event loop's default threads
    are needed to look up providers. Callers that ask for the same name and port at the same time share one look-up and
    its answer.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="webhook-names")
        self._questions: dict[tuple[str, int], Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of `host` in the resolver's order of preference. Raises OSError, UnicodeError."""
        question = self._questions.get((host, port))
        if question is None or question.done():
            self._questions = {key: asked for key, asked in self._questions.items() if not asked.done()}
            question = self._questions[host, port] = self._threads.submit(_look_up, host, port)
        # Shielded: others may wait for the same answer.
        return await asyncio.shield(asyncio.wrap_future(question))


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: Address) -> bool:
    """Tell whether a host on the public internet can have this address."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


class WebhookTargets:
    """Checks URLs when they are given, and the addresses of their hosts each time before we connect."""

    def __init__(self, *, allow_local: bool, resolve: Resolve | None = None) -> None:
        """`allow_local`: allow http, any port and loopback addresses too, for development and tests. `resolve` is used
        in place of this machine's resolver."""
        self._allow_local = allow_local
        self._resolve = resolve or SystemResolver()

    async def check(self, url: str) -> None:
        """Check a URL and the addresses that its host has now. Raises TargetRefusedError."""
        self.check_url(url)
        parts = urlsplit(url)
        await self.addresses(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))

    def check_url(self, url: str) -> None:
        """Check that a URL is https and in ASCII, without user and fragment, and that its port is 443 or above 1023:
        most system services listen on lower ports. With `allow_local`, http and any port pass too. Raises
        TargetRefusedError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise TargetRefusedError(TargetProblem.URL) from None
        plain = url.isascii() and "@" not in parts.netloc and "#" not in url and bool(parts.hostname)
        if self._allow_local:
            allowed = parts.scheme in {"http", "https"}
        else:
            allowed = parts.scheme == "https" and (port in {None, 443} or (port or 0) >= LOWEST_FREE_PORT)
        if not (plain and allowed):
            raise TargetRefusedError(TargetProblem.URL)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses that `host` resolves to. Raises TargetRefusedError if there are none, if the look-up
        takes more than RESOLVE_SECONDS, or if even one address is not allowed."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise TargetRefusedError(TargetProblem.NOT_RESOLVED)
        if not all(self._is_allowed(address) for address in found):
            raise TargetRefusedError(TargetProblem.ADDRESS)
        return list(found)

    def _is_allowed(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return is_public(address) or (self._allow_local and address.is_loopback)
