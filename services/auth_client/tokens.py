"""What is asked for and what comes back."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Which token is needed, and why."""

    user_id: str
    """A user id of the service, or a subject of its default issuer."""
    provider: str
    scopes: Iterable[str] = ()
    """All of them must be granted; kept sorted, because their order means nothing."""
    account: str | None = None
    """Account id at the provider, or its e-mail; default: the user's primary connection."""
    min_ttl_seconds: int | None = None
    """A hard demand (the service caps it at half the token's issued life); default: whatever is usable."""
    reason: str | None = None
    """Shown to the user in the connection's activity."""

    def __post_init__(self) -> None:
        if isinstance(self.scopes, str):
            raise TypeError("scopes is a list of scopes, not one text")
        object.__setattr__(self, "scopes", tuple(sorted(set(self.scopes))))


@dataclass(frozen=True, slots=True)
class Token:
    """An access token that may be used now. Its text is not in the repr, so a logged object gives nothing away."""

    access_token: str = field(repr=False)
    token_type: str
    expires_at: datetime | None
    """By the service's clock; None: it does not run out. For showing: durations are in `expires_in`."""
    expires_in: int | None
    """Seconds that were left when the token was handed out, by this process's monotonic clock."""
    scopes: tuple[str, ...]
    """What the user granted, which may be more than was asked for."""
    provider: str
    account: str
    integration_id: str
    refreshed: bool
    """Whether the token was replaced at the provider while this call waited."""

    @property
    def authorization(self) -> str:
        """The value of an `Authorization` header (RFC 6750 section 2.1)."""
        return f"{self.token_type} {self.access_token}"

    def aged(self, seconds: float) -> "Token":
        """The same token that much later."""
        if self.expires_in is None:
            return self
        return replace(self, expires_in=max(0, int(self.expires_in - seconds)))
