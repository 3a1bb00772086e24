"""Sends one request after another on one connection and times each, to show how long a caller waits when nobody else
calls."""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError

_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request to send."""

    method: str
    path: str
    authorization: str
    body: bytes | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers, with the media type of the body if there is one."""
        media_type = {} if self.body is None else {"Content-Type": "application/json"}
        return {"Authorization": self.authorization, **media_type}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, with its latency; the body is complete, and not yet parsed as JSON."""

    status: int
    milliseconds: float
    body: bytes

    def document(self) -> Any:
        """Return the body, parsed as JSON. Raises BenchmarkError for a status other than 200."""
        if self.status != 200:
            raise BenchmarkError(f"answered {self.status}: {self.body[:200].decode(errors='replace')}")
        return json.loads(self.body)


class Caller(AbstractContextManager["Caller"]):
    """An HTTP connection that stays open from one call to the next."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def reconnect(self) -> None:
        """Close the connection, so that the next request opens a new one. Needed after a pause: a server closes a
        connection that is silent for some seconds."""
        self._connection.close()

    def call(self, request: Request) -> Answer:
        """Send the request and wait for the answer, of any status. Raises BenchmarkError when the connection fails or
        nothing arrives for 30 seconds."""
        headers = request.headers()
        started = time.perf_counter()
        try:
            self._connection.request(request.method, request.path, body=request.body, headers=headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise BenchmarkError(f"{request.method} {request.path.partition('?')[0]}: {error!r}") from None
        return Answer(response.status, 1e3 * (time.perf_counter() - started), body)
