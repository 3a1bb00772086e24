"""Memory of tokens that were handed out a moment ago."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from services.auth_client.options import ClientOptions
from services.auth_client.tokens import Token, TokenRequest

ENDLESS_REUSE_SECONDS: Final = 60.0
"""Longest reuse of tokens that do not expire, whatever `max_reuse_seconds` says: only asking again shows that one was
revoked."""

_Key = tuple[str, str, Iterable[str], str | None, str | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    token: Token
    sent_at: float
    """Time at which the request was sent, by the monotonic clock, because the service's wall clock is not trusted to
    agree with ours. `expires_in` was counted from a later time, so counting from here errs on the safe side."""


class TokenMemory:
    """Bounded memory of tokens for one process, safe between threads."""

    def __init__(self, options: ClientOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._lock = Lock()
        self.generation = 0
        """Number that grows when something is forgotten. An answer to a request from before that is not remembered."""

    def recall(self, request: TokenRequest) -> Token | None:
        """Return a remembered token that still has more time left than the request and the margin demand."""
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
        """Keep an answer, unless something was forgotten since it was asked for."""
        with self._lock:
            if generation != self.generation or not self._options.max_reuse_seconds:
                return
            key = _key(request)
            self._entries[key] = _Entry(token, sent_at)
            self._entries.move_to_end(key)
            while len(self._entries) > self._options.max_remembered:
                self._entries.popitem(last=False)

    def forget(self, user_id: str, provider: str | None = None) -> int:
        """Drop a user's tokens, of one provider or of all. Returns the new generation."""
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
    """Return the key under which an answer is remembered. The reason is part of it: the user is shown each reason,
    so each makes a read of its own."""
    return request.user_id, request.provider, request.scopes, request.account, request.reason
