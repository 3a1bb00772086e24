"""Makes the HTTP clients of a process, and sends requests with them; the only module that knows httpx by name."""

import asyncio
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import httpx

from services.user_management.core import failpoints
from services.user_management.exceptions import RetryLaterError

MAX_BODY_BYTES: Final = 1 << 20
FETCH_SECONDS: Final = 5.0

HttpClient = httpx.AsyncClient
BlockingHttpClient = httpx.Client
HttpResponse = httpx.Response
HttpError = (httpx.HTTPError, httpx.InvalidURL)
"""The errors of making and sending a request, except the ValueError for text that no header or host name can hold."""
TransportError = httpx.RequestError
"""The base of all errors of a call that got no usable answer; a broken encoding of the body is one of them."""
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures after which the other side has certainly seen nothing."""


class ResponseTooLargeError(httpx.TransportError):
    """Raised for an answer larger than the reader accepts: 1 MiB, or 32 MiB for a page of Clerk's users."""


def create_http_client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Make a client that follows no redirects, keeps no cookies, and takes no proxies from the environment; `transport`
    replaces the network in tests."""
    return httpx.AsyncClient(
        transport=transport,
        cookies=_no_cookies(),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(8.0, connect=3.0, pool=2.0),
        # There is no common limit, which one party that hangs could use up: each party is capped where it is called.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        headers={"User-Agent": "user-management-service", "Accept": "application/json"},
    )


def create_blocking_http_client(*, ca_file: Path | None = None) -> httpx.Client:
    """Make a blocking client for requests at boot, in a thread; `ca_file` (PEM) replaces the public certificates.

    Raises OSError when that file cannot be used.
    """
    return httpx.Client(
        cookies=_no_cookies(),
        verify=True if ca_file is None else ssl.create_default_context(cafile=ca_file),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(5.0, connect=3.0),
        headers={"User-Agent": "user-management-service", "Accept": "application/json"},
    )


def _no_cookies() -> CookieJar:
    """Return a cookie jar that stays empty. A client sends the calls of many users to a provider, so a cookie that came
    with one user's answer would go out with another user's request."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def is_web_address(url: str) -> bool:
    """Tell whether a request can be sent to `url`: it is http or https, well-formed, and names a host and a possible
    port."""
    try:
        parsed = httpx.URL(url)
        return parsed.scheme in {"https", "http"} and bool(parsed.host) and (parsed.port or 0) < 1 << 16
    except (httpx.InvalidURL, ValueError):  # the latter for host names that IDNA does not allow
        return False


async def send(client: httpx.AsyncClient, request: httpx.Request) -> tuple[httpx.Response, bytes]:
    """Send a request; return the answer, whatever its status, and its body. The client's timeouts limit each step; the
    caller limits the whole. Raises TransportError if no usable answer came: ResponseTooLargeError, a subclass, for a
    body of more than MAX_BODY_BYTES."""
    if (trace := failpoints.call_trace()) is not None:
        request.extensions["trace"] = trace
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ResponseTooLargeError("the answer is larger than 1 MiB", request=request)
    finally:
        await response.aclose()
    return response, bytes(body)


async def fetch_json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """GET `url` and return the JSON object in the answer, within FETCH_SECONDS in all. Raises RetryLaterError if the
    call fails, the status is not 200 or the body is not a JSON object."""
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            response, body = await send(client, client.build_request("GET", url))
        if response.status_code != 200:
            raise RetryLaterError(f"{url} answered {response.status_code}")
        document = httpx.Response(200, content=body).json()
    except (*HttpError, TimeoutError, ValueError, RecursionError) as error:
        raise RetryLaterError(f"{url} cannot be fetched: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise RetryLaterError(f"{url} is not a JSON object")
    return document
