"""The records of a provider: authorization codes, grants (consents) and the tokens that belong to them. Times are of
the monotonic clock, except for `authenticated_at`."""

import secrets
import time
from dataclasses import dataclass, field

from services.sandbox.oidc.accounts import Account

REFRESH_TOKEN_PREFIX = "sbx-rt-"  # noqa: S105  a prefix, not a token
ACCESS_TOKEN_PREFIX = "sbx-at-"  # noqa: S105  likewise


@dataclass(slots=True)
class Grant:
    """One consent of an account to a client. The tokens issued under it stop working when it ends."""

    account: Account
    client_id: str
    scopes: tuple[str, ...]
    nonce: str | None
    authenticated_at: int
    """Unix seconds on the provider's clock (`auth_time`)."""
    offline: bool
    """Whether the client gets a refresh token."""
    id: str = field(default_factory=lambda: f"grant-{secrets.token_hex(8)}")
    revoked_because: str | None = None
    refresh_tokens: list["RefreshToken"] = field(default_factory=list)
    access_tokens: list["AccessToken"] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Tell whether the consent was not ended; single tokens of a live consent may have expired or ended."""
        return self.revoked_because is None

    def revoke(self, reason: str) -> None:
        """End the consent and all its tokens. The first reason is kept."""
        self.revoked_because = self.revoked_because or reason

    def new_refresh_token(self, scopes: tuple[str, ...], prefix: str) -> "RefreshToken":
        """Issue one more refresh token under the consent, and return it; its value begins with `prefix`."""
        value = f"{prefix}{secrets.token_urlsafe(32)}"
        token = RefreshToken(value=value, grant=self, scopes=scopes, prefix=prefix)
        self.refresh_tokens.append(token)
        return token

    def end_access_tokens(self) -> None:
        """Make the access tokens issued so far stop working now."""
        for token in self.access_tokens:
            token.revoked = True

    def age(self, seconds: float) -> None:
        """Make the tokens that were issued so far older by `seconds`; the time of a rotation stays as it is."""
        for refresh_token in self.refresh_tokens:
            refresh_token.issued_at -= seconds
            refresh_token.used_at -= seconds
        for access_token in self.access_tokens:
            access_token.expires_at -= seconds


@dataclass(slots=True)
class RefreshToken:
    """A refresh token. `successor` is the token that replaced it, if a later use of this one is to be noticed (the
    refresh kinds grace and strict)."""

    value: str
    grant: Grant
    scopes: tuple[str, ...]
    prefix: str
    successor: "RefreshToken | None" = None
    rotated_at: float | None = None
    issued_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)
    dead_because: str | None = None
    """Why this token, and not its whole grant, was ended; `None` if it was not."""

    @property
    def alive(self) -> bool:
        """Tell whether neither the token nor its grant was ended; the token may still be too old."""
        return self.dead_because is None and self.grant.alive

    def renewed(self) -> "RefreshToken":
        """Issue one more refresh token with the same grant, scopes and prefix, and return it."""
        return self.grant.new_refresh_token(self.scopes, self.prefix)


@dataclass(slots=True)
class AccessToken:
    """An opaque bearer token."""

    grant: Grant
    scopes: tuple[str, ...]
    expires_at: float
    """Monotonic time at which the token expires; infinite for one that does not."""
    value: str
    revoked: bool = False


@dataclass(slots=True)
class AuthorizationCode:
    """A code and everything it is bound to (RFC 6749 section 4.1.3, RFC 7636 section 4.4)."""

    account: Account
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    nonce: str | None
    code_challenge: str | None
    offline: bool
    expires_at: float
    authenticated_at: int
    value: str = field(default_factory=lambda: f"sbx-code-{secrets.token_urlsafe(24)}")
    grant: Grant | None = None
    """The grant that the exchange of the code made, `None` before it. A second exchange revokes the grant."""
