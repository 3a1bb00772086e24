"""The logic that decides which requests go to the service and when they are repeated. It does no I/O itself.

A conversation is a generator: it yields what to do (`Post` or `Pause`), is sent the result (None after a `Pause`), and
returns an outcome, a token or a problem, for each request. The synchronous and the asynchronous client differ only in
how they carry out what a conversation yields.
"""

import json
import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from services.auth_client.errors import SERVICE_UNREACHABLE, Problem, TokenError, error_of, passes_by_itself
from services.auth_client.memory import TokenMemory
from services.auth_client.options import ClientOptions
from services.auth_client.tokens import Token, TokenRequest
from services.auth_client.wire import (
    BATCH_PATH,
    BATCH_SIZE,
    GET_PATH,
    REFRESH_PATH,
    Answer,
    Outcome,
    members,
    outcome_of,
    outcomes_of_batch,
)

SHORTEST_ATTEMPT_SECONDS: Final = 0.1
BACKOFF_FACTOR: Final = 4
OUT_OF_TIME: Final = Problem(SERVICE_UNREACHABLE, "the time ran out before this token could be asked for")


@dataclass(frozen=True, slots=True)
class Post:
    """Instruction to send an HTTP request, and to resume the conversation with the Answer, or with a Problem if no
    answer came."""

    path: str
    body: bytes
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Instruction to wait, and to resume the conversation with None."""

    seconds: float


Outcomes = dict[TokenRequest, Outcome]
Conversation = Generator[Post | Pause, Answer | Problem | None, Outcomes]


@dataclass(frozen=True, slots=True)
class Call:
    """A request for one token, at one path of the service. Callers whose calls are equal at the same time share one
    conversation."""

    path: str
    request: TokenRequest
    generation: int
    """Value of `TokenMemory.generation` when this object was made. It grows when something is forgotten, so that a
    caller who asks after that does not share the answer of those who asked before. 0 for a forced refresh (`renewal`),
    whose answer is always current."""
    rejected: Token | None = field(default=None, compare=False)
    """Token that the provider refused, if the caller named it. It is not compared: whichever token was refused, the
    refresh under way brings a newer one, so all who wait for a refresh share it."""


class Exchange:
    """The logic that both clients share: it creates calls, looks for remembered tokens, and conducts conversations."""

    def __init__(self, options: ClientOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.memory = TokenMemory(options, clock)
        self._clock = clock

    def read(self, request: TokenRequest) -> Call:
        """Return a call for a usable token."""
        return Call(GET_PATH, request, self.memory.generation)

    def renewal(self, request: TokenRequest, rejected: Token | None) -> Call:
        """Return a call for a forced refresh, which asks for a newer token than the one that the service holds.
        `rejected` is the token that the provider refused, if the caller names it."""
        return Call(REFRESH_PATH, request, 0, rejected)

    def recall(self, call: Call) -> Token | None:
        """Return a remembered token that makes the call unnecessary, or None. A refresh is unnecessary only if it
        names a rejected token and a different token is remembered by now."""
        if call.path == REFRESH_PATH and call.rejected is None:
            return None
        token = self.memory.recall(call.request)
        replaced = call.rejected is None or (token is not None and token.access_token != call.rejected.access_token)
        return token if replaced else None

    def remembered(self, requests: Iterable[TokenRequest]) -> Outcomes:
        """Return, for each request whose token is remembered, that token; leave out the other requests."""
        return {request: token for request in requests if (token := self.memory.recall(request))}

    def converse(self, path: str, requests: Sequence[TokenRequest]) -> Conversation:
        """Ask the service at `path` for tokens until each one has been received or refused for good, or the attempts
        or the time run out. Returns an outcome for each request, and remembers the tokens.

        Repeating a request is safe: a read only adds a record of itself, and the service does not replace a token that
        it got less than ten seconds ago.
        """
        started = self._clock()
        outcomes: Outcomes = {}
        pending = list(dict.fromkeys(requests))
        attempt = 0
        while pending:
            attempt += 1
            for chunk in _chunks(pending, path):
                if outcomes and self._left(started) < SHORTEST_ATTEMPT_SECONDS:
                    break
                told = yield from self._ask(path, chunk, started=started)
                # An earlier answer says more than a later attempt that got none.
                outcomes |= {one: new for one, new in told.items() if one not in outcomes or not _is_silence(new)}
            waits = self._waits(attempt, {one: outcomes[one] for one in pending if one in outcomes}, started)
            pending = list(waits)
            if pending:
                yield Pause(max(waits.values()))
        return {request: outcomes.get(request, OUT_OF_TIME) for request in requests}

    def _ask(self, path: str, requests: Sequence[TokenRequest], *, started: float) -> Conversation:
        if path == REFRESH_PATH:
            self.memory.forget(requests[0].user_id, requests[0].provider)
        generation, sent_at = self.memory.generation, self._clock()
        timeout = max(SHORTEST_ATTEMPT_SECONDS, min(self.options.timeout_seconds, self._left(started)))
        answer = yield Post(path, _body(path, requests), timeout)
        outcomes = dict(zip(requests, _outcomes(path, answer, len(requests)), strict=True))
        tokens = {request: outcome for request, outcome in outcomes.items() if isinstance(outcome, Token)}
        for request, token in tokens.items():
            if path == REFRESH_PATH:
                # A read during this refresh may have got, and remembered, the token that it replaces.
                latest = self.memory.forget(request.user_id, request.provider)
                # If the caller forgot something meanwhile, this token may be what it no longer trusts.
                generation = latest if latest == generation + 1 else generation
            self.memory.remember(request, token, sent_at=sent_at, generation=generation)
            outcomes[request] = token.aged(self._clock() - sent_at)
        return outcomes

    def _left(self, started: float) -> float:
        return self.options.deadline_seconds - (self._clock() - started)

    def _waits(self, attempt: int, outcomes: Outcomes, started: float) -> dict[TokenRequest, float]:
        """Return, for each request that may still succeed, the seconds to wait before it is repeated. Requests whose
        wait would outlast the deadline are left out. After the last attempt the result is empty."""
        if attempt >= self.options.max_attempts:
            return {}
        share = random.random()  # noqa: S311 - jitter, so that the replicas of a caller do not retry in step
        untold = self.options.backoff_seconds * BACKOFF_FACTOR ** (attempt - 1) * (1 - share / 2)
        waits = {
            request: untold
            if problem.retry_after is None
            else problem.retry_after + share * self.options.backoff_seconds
            for request, problem in outcomes.items()
            if _may_still_come(problem)
        }
        left = self._left(started) - SHORTEST_ATTEMPT_SECONDS
        return {request: seconds for request, seconds in waits.items() if seconds <= left}


def token_or_raise(outcome: Outcome) -> Token:
    """Return the outcome if it is a token. Raises TokenError otherwise."""
    if isinstance(outcome, Problem):
        raise error_of(outcome)
    return outcome


def tokens_or_errors(outcomes: Iterable[Outcome]) -> list[Token | TokenError]:
    """Return each token, and for each problem an error as a value that is not raised, in the order of the outcomes."""
    return [error_of(outcome) if isinstance(outcome, Problem) else outcome for outcome in outcomes]


def _may_still_come(outcome: Outcome) -> TypeGuard[Problem]:
    return isinstance(outcome, Problem) and passes_by_itself(outcome)


def _is_silence(outcome: Outcome) -> bool:
    return isinstance(outcome, Problem) and outcome.code == SERVICE_UNREACHABLE and outcome.status is None


def _chunks(requests: Sequence[TokenRequest], path: str) -> list[Sequence[TokenRequest]]:
    size = BATCH_SIZE if path == BATCH_PATH else 1
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def _body(path: str, requests: Sequence[TokenRequest]) -> bytes:
    items = [members(request) for request in requests]
    return json.dumps({"items": items} if path == BATCH_PATH else items[0]).encode()


def _outcomes(path: str, answer: Answer | Problem | None, count: int) -> Sequence[Outcome]:
    if isinstance(answer, Problem):
        return [answer] * count
    if answer is None:
        raise TypeError("a Post is answered with an Answer or a Problem")
    return outcomes_of_batch(answer, count) if path == BATCH_PATH else [outcome_of(answer)]
