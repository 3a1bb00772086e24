"""Makes HTTP calls to providers: through the provider's gate (the cap on calls at once, and the breaker), in limited
time, and with a ProviderCallError if no complete answer comes."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind
from services.user_management.http_client import (
    NOT_SENT,
    HttpClient,
    HttpError,
    ResponseTooLargeError,
    TransportError,
    send,
)
from services.user_management.integrations.oauth_config import Provider
from services.user_management.integrations.provider_answer import Answer
from services.user_management.integrations.provider_errors import TOO_LATE, UNSENDABLE_REQUEST, ProviderCallError
from services.user_management.integrations.provider_gate import Call, ProviderGate

CALL_TIMEOUT_SECONDS: Final = 8.0
"""The time for a whole call, including connecting and reading, from when the gate lets the call through. It is
shorter than the time that a stopping process leaves to calls under way (8.5 s), and than the lease of a refresh (30
s)."""


def always() -> bool:
    """Return True: the default `may_send`, which never holds a request back."""
    return True


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a provider. At most one of `form` and `json` may be given."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    json: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and when its request was sent, in monotonic seconds."""

    answer: Answer
    sent_at: float


@dataclass(kw_only=True, eq=False)
class ProviderCalls:
    """Sends requests to providers."""

    http: HttpClient
    clock: Clock
    gate: ProviderGate

    async def send(self, provider: Provider, request: Request, *, may_send: Callable[[], bool] = always) -> Answered:
        """Send a request, report to the gate whether the provider works, and return any complete answer, even a
        refusal. `may_send` is called once the gate has let the call through; if it returns False, nothing is sent.
        Raises ProviderCallError if nothing was sent or no complete answer came."""
        try:
            prepared = self.http.build_request(
                request.method, request.url, headers=dict(request.headers), data=request.form, json=request.json
            )
        except (*HttpError, ValueError):
            raise ProviderCallError(ProviderErrorKind.OPERATOR, UNSENDABLE_REQUEST) from None
        async with self.gate.call(provider.name, max_concurrency=provider.config.max_concurrency) as call:
            if not may_send():
                raise ProviderCallError(ProviderErrorKind.TRANSIENT, TOO_LATE)
            sent_at = self.clock.monotonic()
            answer = await self._send(prepared, call)
        return Answered(answer, sent_at)

    async def _send(self, prepared: Any, call: Call) -> Answer:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                response, body = await send(self.http, prepared)
        except NOT_SENT as error:
            call.failed()
            raise ProviderCallError(ProviderErrorKind.TRANSIENT, _snake(error)) from None
        except (TransportError, TimeoutError) as error:
            call.failed()
            raise ProviderCallError(
                ProviderErrorKind.TRANSIENT,
                _snake(error),
                outcome_unknown=True,
                unusable=isinstance(error, ResponseTooLargeError),
            ) from None
        answer = Answer(response.status_code, response.headers, body, self.clock.now())
        if answer.is_later:
            call.failed(answer.retry_after())
        else:
            call.answered()
        return answer


def basic_authentication(provider: Provider) -> str:
    """Build the value of the Authorization header by which our client authenticates. RFC 6749 section 2.3.1: client id
    and secret are form-encoded before they are joined."""
    client_id, client_secret = provider.client_id, provider.client_secret.get_secret_value()
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _snake(error: Exception) -> str:
    """Return the name of the error's class in snake case (`ReadTimeout`: `read_timeout`), the failure's name in rows
    and logs."""
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
