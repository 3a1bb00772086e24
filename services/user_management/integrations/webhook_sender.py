"""Sends outgoing webhooks: one POST on a connection of its own, to an address that was just checked to be allowed (a
public one; outside production also this machine).

It uses httpcore and not the process's HTTP client, because the check must be made on the very address that is connected
to: a name that is looked up once for the check and again for the connection may give two answers (DNS rebinding). Host
header, SNI and the certificate's name stay those of the URL. httpcore follows no redirects and uses no proxies or
cookies.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpcore

from services.user_management.core.clock import Clock
from services.user_management.integrations.webhook_target import TargetProblem, TargetRefusedError, WebhookTargets
from services.user_management.utils.retry_after import read_retry_after

TOTAL_SECONDS: Final = 10.0
"""The time for looking up the name, connecting, sending, and reading the head of the answer. The job that sends works
in slices; a slice starts its last call at most 7 s after its own start, and that call must be over and recorded before
the slice is cut off after 20 s."""
CONNECT_SECONDS: Final = 4.0
DRAIN_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 0.5
MAX_ANSWER_BYTES: Final = 64 * 1024
USER_AGENT: Final = "user-management-service"


class SendFailure(StrEnum):
    """Why a webhook was not accepted."""

    URL_REFUSED = TargetProblem.URL.value
    ADDRESS_REFUSED = TargetProblem.ADDRESS.value
    NOT_RESOLVED = TargetProblem.NOT_RESOLVED.value
    NOT_CONNECTED = "not_connected"
    TLS_FAILED = "tls_failed"
    TIMED_OUT = "timed_out"
    BROKEN_ANSWER = "broken_answer"
    """The connection ended before an answer, or what came was not HTTP."""
    REDIRECTED = "redirected"
    GONE = "gone"
    """The receiver answered 410: it wants no more events."""
    REFUSED = "refused"
    """The receiver answered with any other status outside 2xx."""


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """The result of sending one webhook. `status` is None if no answer came, `failure` None if the receiver accepted
    the webhook. `retry_after` is in seconds and is read only from 429 and 503."""

    status: int | None
    failure: SendFailure | None
    retry_after: float | None = None


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """A network backend that connects only to allowed addresses. It looks a name up once for each connection, and
    connects to the very addresses that it has checked."""

    def __init__(self, targets: WebhookTargets) -> None:
        self._targets = targets
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(  # noqa: PLR0917 - httpcore's signature
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that accepts. Raises TargetRefusedError if the host has no
        address, or if any of its addresses is not allowed; httpcore.ConnectError or ConnectTimeout if none accepts."""
        *others, last = await self._targets.addresses(host, port)
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)


class WebhookSender:
    """Sends webhooks to addresses that are checked anew for each delivery."""

    def __init__(self, targets: WebhookTargets, clock: Clock, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """If `ssl_context` is None, receivers need a certificate with the right name from a public authority."""
        self._targets = targets
        self._clock = clock
        # No connection is kept open: each delivery's address is checked anew, and idle connections cost nothing.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(targets),
        )

    async def send(self, url: str, *, headers: Mapping[str, str], body: bytes) -> WebhookAnswer:
        """POST `body` to `url` and return the result. Failures are returned in the result, not raised."""
        try:
            self._targets.check_url(url)
            async with asyncio.timeout(TOTAL_SECONDS) as limit:
                return await self._exchange(url, {"User-Agent": USER_AGENT, **headers}, body, limit)
        except TargetRefusedError as error:
            return WebhookAnswer(None, SendFailure(error.problem.value))
        except (TimeoutError, httpcore.TimeoutException):
            return WebhookAnswer(None, SendFailure.TIMED_OUT)
        except httpcore.ConnectError as error:
            return WebhookAnswer(None, SendFailure.TLS_FAILED if _is_about_tls(error) else SendFailure.NOT_CONNECTED)
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return WebhookAnswer(None, SendFailure.BROKEN_ANSWER)

    async def aclose(self) -> None:
        """Close all open connections."""
        await self._pool.aclose()

    async def _exchange(self, url: str, headers: dict[str, str], body: bytes, limit: asyncio.Timeout) -> WebhookAnswer:
        seconds = {"connect": CONNECT_SECONDS, "read": TOTAL_SECONDS, "write": TOTAL_SECONDS, "pool": TOTAL_SECONDS}
        async with self._pool.stream(
            "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": seconds}
        ) as response:
            limit.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS + CLOSE_SECONDS)
            await _drain(response)
            return self._judge(response.status, {name.lower(): value for name, value in response.headers})

    def _judge(self, status: int, headers: Mapping[bytes, bytes]) -> WebhookAnswer:
        if 200 <= status < 300:
            return WebhookAnswer(status, None)
        if 300 <= status < 400:
            return WebhookAnswer(status, SendFailure.REDIRECTED)
        if status == 410:
            return WebhookAnswer(status, SendFailure.GONE)
        wanted = headers.get(b"retry-after", b"") if status in {429, 503} else b""
        return WebhookAnswer(status, SendFailure.REFUSED, read_retry_after(wanted.decode("latin-1"), self._clock.now()))


async def _drain(response: httpcore.Response) -> None:
    """Read at most a second and 64 KiB of the answer's body, so that the receiver is not cut off while it writes. Only
    the status matters and the body is thrown away, so it may break off, be endless or never come."""
    received = 0
    with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in response.aiter_stream():
                received += len(chunk)
                if received > MAX_ANSWER_BYTES:
                    return


def _is_about_tls(error: BaseException | None) -> bool:
    """Tell whether an error of the ssl module is behind `error`; the layers in between wrap it."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
