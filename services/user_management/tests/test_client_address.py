"""Tests of which address counts as the client's: the peer's, or the one that our own proxies report; never one that a
caller claims."""

from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from services.user_management.core.context import current_context
from services.user_management.middleware.client_address import MAX_HOPS, client_address
from services.user_management.middleware.request_context import RequestContextMiddleware

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def seen(peer: str, *forwarded: str, trusted: Any = PROXIES) -> str | None:
    """Return the address that counts as the client's in a request from `peer` with these X-Forwarded-For lines."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return client_address({"type": "http", "client": (peer, 40000), "headers": headers}, trusted)


def test_peer_without_trusted_networks_is_the_client() -> None:
    assert seen("10.0.0.1", "203.0.113.9", trusted=()) == "10.0.0.1"


def test_peer_outside_trusted_networks_is_the_client_whatever_it_claims() -> None:
    assert seen("198.51.100.7", "203.0.113.9, 10.0.0.1") == "198.51.100.7"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("  203.0.113.9 ,\t10.0.0.2 , 10.0.0.3", "203.0.113.9"),
        ("203.0.113.9:51312, 10.0.0.2:80", "203.0.113.9"),
        ("2001:db8::9", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("[2001:DB8::9]:51312, fd00::1", "2001:db8::9"),
        ("[::1]:567", "::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_trusted_peer_speaks_for_the_nearest_hop_that_is_not_ours(forwarded: str, client: str) -> None:
    assert seen("10.0.0.1", forwarded) == client


def test_mapped_peer_is_trusted_as_the_address_in_it() -> None:
    assert seen("::ffff:10.0.0.1", "203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("spoofed", ["1.2.3.4", "127.0.0.1", "10.0.0.9", "fd00::9", "<script>", ", ,"])
def test_leftmost_entry_that_the_caller_wrote_never_wins(spoofed: str) -> None:
    assert seen("10.0.0.1", f"{spoofed}, 203.0.113.9") == "203.0.113.9"
    assert seen("10.0.0.1", f"{spoofed}, 203.0.113.9, 10.0.0.2") == "203.0.113.9"


@pytest.mark.parametrize(
    "malformed",
    [
        *["", "unknown", "_hidden", "203.0.113", "203.0.113.9.", "203.0.113.256", "203.0.113.9:port"],
        *["203.0.113.9:123456", "203.0.113.9/24", "0x7f000001", "1", "é", "%"],
        *["[2001:db8::9", "2001:db8::9]", "[2001:db8::9]x", "[203.0.113.9]"],
    ],
)
def test_malformed_entry_stops_at_the_last_good_hop(malformed: str) -> None:
    assert seen("10.0.0.1", f"203.0.113.9, {malformed}, 10.0.0.2") == "10.0.0.2"


def test_trusted_peer_without_the_header_is_the_client() -> None:
    assert seen("10.0.0.1") == "10.0.0.1"


def test_all_hops_trusted_gives_the_leftmost() -> None:
    assert seen("10.0.0.1", "10.0.0.4, 10.0.0.3, 10.0.0.2") == "10.0.0.4"


def test_several_lines_are_one_list() -> None:
    assert seen("10.0.0.1", "1.2.3.4, 203.0.113.9", "10.0.0.3, 10.0.0.2") == "203.0.113.9"


def test_walk_ends_after_so_many_hops() -> None:
    endless = ", ".join(f"10.0.{number // 250}.{number % 250}" for number in range(5000))

    assert seen("10.0.0.1", endless) == f"10.0.19.{250 - MAX_HOPS}"


@pytest.mark.parametrize("client", [None, ("", 0)])
def test_peer_without_an_address_has_none(client: Any) -> None:
    found = client_address({"type": "http", "client": client, "headers": [(b"x-forwarded-for", b"1.2.3.4")]}, PROXIES)

    assert found is None


def test_peer_that_is_no_address_is_itself() -> None:
    assert seen("testclient", "203.0.113.9") == "testclient"


async def test_context_of_a_request_holds_the_address() -> None:
    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse(str(current_context().ip_address))

    app = RequestContextMiddleware(
        Starlette(routes=[Route("/", answer)]), strict_transport=False, trusted_networks=[ip_network("127.0.0.1/32")]
    )
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40000))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as http:
        response = await http.get("/", headers={"X-Forwarded-For": "1.2.3.4, 203.0.113.9"})

    assert response.text == "203.0.113.9"
