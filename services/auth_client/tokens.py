"""Values that callers give and get: a request for a token, and the token."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Request that says which token is needed, and why."""

    user_id: str
    """User id of the service, or a subject of its default issuer."""
    provider: str
    scopes: Iterable[str] = ()
    """Scopes that must all be granted. They are kept sorted, because their order means nothing."""
    account: str | None = None
    """Account id at the provider, or its e-mail; by default, the user's primary integration."""
    min_ttl_seconds: int | None = None
    """Seconds that the token must still be good for, a hard demand, which the service caps at half the token's
    issued life. By default, whatever is usable."""
    reason: str | None = None
    """Reason for the read, which the user is shown in the integration's activity."""

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
    """End of the token's life by the service's clock; None if it does not expire. Show it to people, and
    compute with `expires_in`."""
    expires_in: int | None
    """Seconds that were left when the token was handed out, by this process's monotonic clock."""
    scopes: tuple[str, ...]
    """Scopes that the user consented to, which may be more than was asked for."""
    provider: str
    account: str
    integration_id: str
    refreshed: bool
    """Whether the token was replaced at the provider while this call waited."""

    @property
    def authorization(self) -> str:
        """Return the value of an `Authorization` header (RFC 6750 section 2.1)."""
        return f"{self.token_type} {self.access_token}"

    def aged(self, seconds: float) -> "Token":
        """Return the same token as it will be that many seconds later."""
        if self.expires_in is None:
            return self
        return replace(self, expires_in=max(0, int(self.expires_in - seconds)))
