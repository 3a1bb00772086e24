"""Memory of tokens that the service returned a short time ago, so that they can be reused without another request."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from services.auth_client.options import ClientOptions
from services.auth_client.tokens import Token, TokenRequest

ENDLESS_REUSE_SECONDS: Final = 60.0
"""Longest reuse of a token that does not expire, even if `max_reuse_seconds` is more: only asking again shows that such
a token was revoked."""

_Key = tuple[str, str, Iterable[str], str | None, str | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    token: Token
    sent_at: float
    """Time at which the request was sent, by the monotonic clock, because the service's wall clock is not trusted to
    agree with this process's. The service counted `expires_in` from a later time, so counting from this one errs on the
    safe side."""


class TokenMemory:
    """Recently received tokens by request, at most `max_remembered`, in the memory of one process. Safe to use from
    several threads."""

    def __init__(self, options: ClientOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._lock = Lock()
        self.generation = 0
        """Number that grows with each `forget`, for whichever user; `remember` keeps no token of an earlier
        generation."""

    def recall(self, request: TokenRequest) -> Token | None:
        """Return the remembered token, with the `expires_in` that it has now. Return None if none is remembered, if it
        is too old for reuse, or if its remaining life is no longer than the request and `reuse_margin_seconds`
        demand."""
        key = _key(request)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            age = self._clock() - entry.sent_at
            if age >= self._reuse_seconds(entry.token):
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
        token = entry.token.aged(age)
        demanded = max(request.min_ttl_seconds or 0, self._options.reuse_margin_seconds)
        return token if token.expires_in is None or token.expires_in > demanded else None

    def remember(self, request: TokenRequest, token: Token, *, sent_at: float, generation: int) -> None:
        """Keep a token that was requested at `sent_at` (monotonic time) in generation `generation`. Does nothing if
        something was forgotten since then, or if reuse is switched off. Above the limit, the least recently used
        tokens are dropped."""
        with self._lock:
            if generation != self.generation or not self._options.max_reuse_seconds:
                return
            key = _key(request)
            self._entries[key] = _Entry(token, sent_at)
            self._entries.move_to_end(key)
            while len(self._entries) > self._options.max_remembered:
                self._entries.popitem(last=False)

    def forget(self, user_id: str, provider: str | None = None) -> int:
        """Drop a user's tokens, of one provider or (None) of all. Return the new generation."""
        with self._lock:
            # One token can be remembered under several sets of scopes, so all of them go.
            gone = [key for key in self._entries if key[0] == user_id and provider in (None, key[1])]
            for key in gone:
                del self._entries[key]
            self.generation += 1
            return self.generation

    def _reuse_seconds(self, token: Token) -> float:
        longest = self._options.max_reuse_seconds
        return min(longest, ENDLESS_REUSE_SECONDS) if token.expires_in is None else longest


def _key(request: TokenRequest) -> _Key:
    """Return the key under which the token for the request is remembered. The reason is part of the key: the user is
    shown every reason, so a token that was read for one reason is not handed out for another."""
    return request.user_id, request.provider, request.scopes, request.account, request.reason
