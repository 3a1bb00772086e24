"""Options that say how long a token client waits, how often it tries, and how long it remembers tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Options of a client. The defaults suit a service that asks for tokens while its own callers wait.

    Raises ValueError for a negative value, and for a time limit or `max_attempts` of 0.
    """

    timeout_seconds: float = 10.0
    """Time limit for one attempt; in the synchronous client, for each wait on the network during it. The service may
    spend 8 s on asking the provider for a newer token."""
    connect_timeout_seconds: float = 2.0
    deadline_seconds: float = 15.0
    """Time limit for all attempts of one call and the pauses between them."""
    max_attempts: int = 4
    backoff_seconds: float = 0.25
    """Length of the first pause, if the service names none. Each further pause is four times as long. Each is shortened
    by a random part, up to half (jitter)."""
    max_reuse_seconds: float = 60.0
    """Time for which a received token is reused; 0 switches reuse off. In that time a revoked grant or a
    suspended user is not noticed and no read is recorded: hence a minute and not the token's whole life. A read
    costs the service under a millisecond, so more gains little."""
    reuse_margin_seconds: float = 60.0
    """Remaining life that a remembered token must exceed to be reused, unless `min_ttl_seconds` demands more."""
    max_remembered: int = 10_000
    """Number of tokens to keep; the least recently used is dropped first."""

    def __post_init__(self) -> None:
        positive = (self.timeout_seconds, self.connect_timeout_seconds, self.deadline_seconds, self.max_attempts)
        not_negative = (self.backoff_seconds, self.max_reuse_seconds, self.reuse_margin_seconds, self.max_remembered)
        if min(positive) <= 0 or min(not_negative) < 0:
            raise ValueError(
                "timeouts, the deadline and attempts must be positive; pauses, reuse, margin and sizes not negative"
            )
