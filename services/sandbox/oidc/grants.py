"""What a provider remembers: codes, grants and the tokens that belong to them. Times are monotonic."""

import secrets
from dataclasses import dataclass, field

from services.sandbox.oidc.accounts import Account


@dataclass(slots=True)
class Grant:
    """One consent. All tokens that descend from it are its family and die with it."""

    account: Account
    client_id: str
    scopes: tuple[str, ...]
    nonce: str | None
    authenticated_at: int
    """Unix seconds on the provider's clock (`auth_time`)."""
    id: str = field(default_factory=lambda: f"grant-{secrets.token_hex(8)}")
    revoked_because: str | None = None
    refresh_tokens: list["RefreshToken"] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether its tokens still work."""
        return self.revoked_because is None

    def revoke(self, reason: str) -> None:
        """Kill the family. The first reason is kept."""
        self.revoked_because = self.revoked_because or reason

    def new_refresh_token(self) -> "RefreshToken":
        """One more refresh token in the family."""
        token = RefreshToken(value=f"sbx-rt-{secrets.token_urlsafe(32)}", grant=self)
        self.refresh_tokens.append(token)
        return token


@dataclass(slots=True)
class RefreshToken:
    """A refresh token; `successor` is what it was rotated into."""

    value: str
    grant: Grant
    successor: "RefreshToken | None" = None
    rotated_at: float | None = None


@dataclass(slots=True)
class AccessToken:
    """An opaque bearer token."""

    grant: Grant
    scopes: tuple[str, ...]
    expires_at: float
    value: str = field(default_factory=lambda: f"sbx-at-{secrets.token_urlsafe(32)}")


@dataclass(slots=True)
class AuthorizationCode:
    """A code and everything it is bound to (RFC 6749 section 4.1.3, RFC 7636 section 4.4)."""

    account: Account
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    nonce: str | None
    code_challenge: str | None
    expires_at: float
    authenticated_at: int
    value: str = field(default_factory=lambda: f"sbx-code-{secrets.token_urlsafe(24)}")
    grant: Grant | None = None
    """Set once the code has been exchanged; a second exchange revokes it."""
