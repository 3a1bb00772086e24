"""Token client for asyncio programs."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import httpx

from services.auth_client.base_client import BaseTokenClient
from services.auth_client.endpoint import HTTP_DEFAULTS, answer_of
from services.auth_client.errors import CLIENT_CLOSED, Problem, TokenError
from services.auth_client.exchange import Call, Conversation, Outcomes, Post, token_or_raise, tokens_or_errors
from services.auth_client.options import ClientOptions
from services.auth_client.tokens import Token, TokenRequest
from services.auth_client.wire import BATCH_PATH, Answer, unreachable

_CLOSED = Problem(CLIENT_CLOSED, "the client was closed while the request was under way")


class AsyncTokenClient(BaseTokenClient):
    """Client that gets users' access tokens from the user management service. All tasks of one event loop may share a
    client; another event loop needs a client of its own."""

    def __init__(
        self,
        base_url: str,
        service_key: str,
        *,
        http: httpx.AsyncClient | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        """Create the client. `http` is an httpx client that the caller made and closes; without it, the client makes
        and closes one, which uses no proxy from the environment.

        Raises ValueError for a malformed address or key.
        """
        super().__init__(base_url, service_key, options=options)
        self._http = http or httpx.AsyncClient(**HTTP_DEFAULTS)
        self._owns_http = http is None
        self._flights: dict[Call, asyncio.Task[Outcomes]] = {}

    async def get(
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
        return await self._shared(self._exchange.read(request))

    async def refresh(
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
        return await self._shared(self._exchange.renewal(request, rejected))

    async def get_many(self, requests: Iterable[TokenRequest]) -> list[Token | TokenError]:
        """Return a token or an error for each request, in the order of the requests. Only tokens that are not
        remembered are requested from the service, at most a hundred per HTTP request. Raises no TokenError."""
        wanted = list(requests)
        known = self._exchange.remembered(wanted)
        known |= await self._run(self._exchange.converse(BATCH_PATH, [it for it in wanted if it not in known]))
        return tokens_or_errors(known[request] for request in wanted)

    async def aclose(self) -> None:
        """Cancel the requests of `get` and `refresh` that are under way (their callers get TryLaterError), and close
        the connections, unless the caller passed `http`. Await calls of `get_many` first: they are not cancelled."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _shared(self, call: Call) -> Token:
        """Return a remembered token, or ask the service for one. If an equal call is under way, wait for its result
        instead. The request continues even if the task that waits for it is cancelled. Raises TokenError."""
        if token := self._exchange.recall(call):
            return token
        flight = self._flights.get(call)
        if flight is None:
            flight = asyncio.create_task(self._run(self._exchange.converse(call.path, [call.request])))
            self._flights[call] = flight
            flight.add_done_callback(lambda _: self._flights.pop(call, None))
        await asyncio.wait([flight])  # unlike `await flight`, which would pass a caller's cancellation on
        return token_or_raise(_CLOSED if flight.cancelled() else flight.result()[call.request])

    async def _run(self, conversation: Conversation) -> Outcomes:
        answer: Answer | Problem | None = None
        while True:
            try:
                step = conversation.send(answer)
            except StopIteration as end:
                outcomes: Outcomes = end.value
                return outcomes
            answer = None
            if isinstance(step, Post):
                answer = await self._post(step)
            else:
                await asyncio.sleep(step.seconds)

    async def _post(self, post: Post) -> Answer | Problem:
        try:
            request = self._endpoint.request(self._http, post)
            async with asyncio.timeout(post.timeout_seconds):
                return answer_of(await self._http.send(request, follow_redirects=False))
        except (httpx.RequestError, TimeoutError) as error:
            return unreachable(error)
