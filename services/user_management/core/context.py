"""The context of the current request or job: audit rows and log lines take their ids from it, and guards set there what
headers the answer gets and how large a body is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from services.user_management.core.principal import ANONYMOUS, Principal

DEFAULT_BODY_BYTES: Final = 64 << 10


@dataclass(slots=True)
class RequestContext:
    """What is known about one request or one run of a job. The functions below add to it while the request runs."""

    request_id: str = "-"
    trace_id: str | None = None
    """W3C trace id, 32 hex digits, from `traceparent`."""
    ip_address: str | None = None
    actor: Principal = ANONYMOUS
    """The principal that log lines name; it decides nothing. The `actor` that services receive as a parameter decides
    what is allowed and in whose name it is recorded."""
    response_headers: dict[bytes, bytes] = field(default_factory=dict)
    """Headers of the answer beside the route's own; names are in lower case, as ASGI demands."""
    body_limit: int = DEFAULT_BODY_BYTES
    """The largest body of this request that is read, in bytes."""


_current: ContextVar[RequestContext] = ContextVar("request_context")


def current_context() -> RequestContext:
    """Return the context of the current asyncio task; outside any request or job, an anonymous one that is made for
    that task."""
    context = _current.get(None)
    if context is None:
        context = RequestContext()
        _current.set(context)
    return context


@contextmanager
def use_context(context: RequestContext) -> Iterator[None]:
    """Make `context` the current one for the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def name_actor(actor: Principal) -> None:
    """Let the log lines of this request name `actor` from now on."""
    current_context().actor = actor


def allow_body(limit: int) -> None:
    """Let up to `limit` bytes of this request's body be read."""
    current_context().body_limit = limit


def add_response_headers(headers: Mapping[bytes, bytes]) -> None:
    """Send `headers` with this request's answer, in place of any of the same name that were added before.

    A header that the answer sets itself wins.
    """
    current_context().response_headers.update(headers)
