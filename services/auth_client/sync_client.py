"""Token client for synchronous programs, with threads or without."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock
from types import TracebackType
from typing import Self

import httpx

from services.auth_client.base_client import BaseTokenClient
from services.auth_client.endpoint import HTTP_DEFAULTS, answer_of
from services.auth_client.errors import Problem, TokenError
from services.auth_client.exchange import Call, Conversation, Outcomes, Post, token_or_raise, tokens_or_errors
from services.auth_client.options import ClientOptions
from services.auth_client.tokens import Token, TokenRequest
from services.auth_client.wire import BATCH_PATH, Answer, Outcome, unreachable

_Flight = Future[Outcome | None]
"""Request that one thread makes while others wait for its result. The result is None if the thread that made the
request was interrupted; then one of the waiting threads makes the request."""


class TokenClient(BaseTokenClient):
    """Client that gets users' access tokens from the user management service. All threads of a process may share a
    client.

    Connections do not survive a fork: create the client in the worker process (Celery: `worker_process_init`).
    """

    def __init__(
        self,
        base_url: str,
        service_key: str,
        *,
        http: httpx.Client | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        """Create the client. `http` is an httpx client that the caller made and closes; without it, the client makes
        and closes one, which uses no proxy from the environment.

        Raises ValueError for a malformed address or key.
        """
        super().__init__(base_url, service_key, options=options)
        self._http = http or httpx.Client(**HTTP_DEFAULTS)
        self._owns_http = http is None
        self._lock = Lock()
        self._flights: dict[Call, _Flight] = {}

    def get(
        self,
        user_id: str,
        provider: str,
        scopes: Iterable[str] = (),
        *,
        account: str | None = None,
        min_ttl_seconds: int | None = None,
        reason: str | None = None,
    ) -> Token:
        """Return a usable token. It may be a remembered one that was requested less than `max_reuse_seconds` ago. The
        parameters are the fields of TokenRequest.

        Raises TokenError, and TypeError if `scopes` is a single string.
        """
        request = TokenRequest(user_id, provider, scopes, account, min_ttl_seconds, reason)
        return self._shared(self._exchange.read(request))

    def refresh(
        self,
        user_id: str,
        provider: str,
        scopes: Iterable[str] = (),
        *,
        account: str | None = None,
        min_ttl_seconds: int | None = None,
        reason: str | None = None,
        rejected: Token | None = None,
    ) -> Token:
        """Have the service replace the token that it holds, and return the new one; call this when the provider
        answers 401 to a token that should be good. If the service got its token less than ten seconds ago, or has no
        refresh token, it returns the token that it holds while that is good for long enough.

        Pass the refused token as `rejected`: if this client already remembers a different token for the same request,
        it returns that one, so that callers who were refused with the same token share one refresh. Raises TokenError,
        and TypeError if `scopes` is a single string.
        """
        request = TokenRequest(user_id, provider, scopes, account, min_ttl_seconds, reason)
        return self._shared(self._exchange.renewal(request, rejected))

    def get_many(self, requests: Iterable[TokenRequest]) -> list[Token | TokenError]:
        """Return a token or an error for each request, in the order of the requests. Only tokens that are not
        remembered are requested from the service, at most a hundred per HTTP request. Raises no TokenError."""
        wanted = list(requests)
        known = self._exchange.remembered(wanted)
        known |= self._run(self._exchange.converse(BATCH_PATH, [it for it in wanted if it not in known]))
        return tokens_or_errors(known[request] for request in wanted)

    def close(self) -> None:
        """Close the connections, unless the caller passed `http`."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shared(self, call: Call) -> Token:
        """Return a remembered token, or ask the service for one. If another thread is making the same call, wait up to
        `deadline_seconds` for its result instead. Raises TokenError."""
        outcome: Outcome | None = self._exchange.recall(call)
        while outcome is None:
            with self._lock:
                leads = call not in self._flights
                flight = self._flights.setdefault(call, Future())
            outcome = self._lead(call, flight) if leads else self._follow(flight)
        return token_or_raise(outcome)

    def _lead(self, call: Call, flight: _Flight) -> Outcome:
        outcome: Outcome | None = None
        try:
            # Look again: another thread may have got an answer between this one's look into the memory and its turn.
            outcome = self._exchange.recall(call) or self._ask(call)
        finally:  # also when this thread is interrupted, say by a task's time limit
            with self._lock:
                del self._flights[call]
            flight.set_result(outcome)
        return outcome

    def _ask(self, call: Call) -> Outcome:
        return self._run(self._exchange.converse(call.path, [call.request]))[call.request]

    def _follow(self, flight: _Flight) -> Outcome | None:
        try:
            return flight.result(timeout=self._options.deadline_seconds)
        except TimeoutError as error:
            return unreachable(error)

    def _run(self, conversation: Conversation) -> Outcomes:
        answer: Answer | Problem | None = None
        while True:
            try:
                step = conversation.send(answer)
            except StopIteration as end:
                outcomes: Outcomes = end.value
                return outcomes
            answer = None
            if isinstance(step, Post):
                answer = self._post(step)
            else:
                time.sleep(step.seconds)

    def _post(self, post: Post) -> Answer | Problem:
        try:
            request = self._endpoint.request(self._http, post)
            return answer_of(self._http.send(request, follow_redirects=False))
        except httpx.RequestError as error:
            return unreachable(error)
