"""Values that callers pass in and get back: a request for a token, and the token."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Request that says which token is needed, and why. Raises TypeError if `scopes` is a single string."""

    user_id: str
    """The user's id in the user management service, or the user's subject at the service's default issuer (the party
    that signs users' session tokens)."""
    provider: str
    scopes: Iterable[str] = ()
    """Scopes that must all be granted. They are stored sorted and without duplicates, since their order means
    nothing."""
    account: str | None = None
    """The account's id at the provider, or the account's e-mail address; by default, the account of the user's primary
    integration."""
    min_ttl_seconds: int | None = None
    """Seconds that the token must still be good for; the service caps them at half the token's issued life, and gives
    no token that is good for less. By default, any usable token will do."""
    reason: str | None = None
    """Reason for the read, which the user is shown in the integration's activity."""

    def __post_init__(self) -> None:
        if isinstance(self.scopes, str):
            raise TypeError("scopes is a list of scopes, not one text")
        object.__setattr__(self, "scopes", tuple(sorted(set(self.scopes))))


@dataclass(frozen=True, slots=True)
class Token:
    """An access token that may be used now. The token's text is not in the repr, so that it is not logged with the
    object."""

    access_token: str = field(repr=False)
    token_type: str
    expires_at: datetime | None
    """End of the token's life by the service's clock; None if the token does not expire. Show it to people, but
    compute with `expires_in`, since this machine's clock may differ."""
    expires_in: int | None
    """Seconds of the token's life that were left when the client returned this object, counted by this process's
    monotonic clock; None if the token does not expire."""
    scopes: tuple[str, ...]
    """Scopes that the user consented to, which may be more than was asked for."""
    provider: str
    account: str
    integration_id: str
    refreshed: bool
    """Whether the service first had to get this token from the provider. A remembered token keeps the value."""

    @property
    def authorization(self) -> str:
        """Return the value of an `Authorization` header (RFC 6750 section 2.1)."""
        return f"{self.token_type} {self.access_token}"

    def aged(self, seconds: float) -> "Token":
        """Return a copy with `expires_in` lowered by `seconds`, to no less than 0; the token itself if it does not
        expire."""
        if self.expires_in is None:
            return self
        return replace(self, expires_in=max(0, int(self.expires_in - seconds)))
