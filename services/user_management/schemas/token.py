"""Requests for access tokens by sibling services, the answers to them, and the records of them that users see."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.user_management.core.pagination import Page
from services.user_management.exceptions import ApplicationError
from services.user_management.utils.scalars import WholeNumber
from services.user_management.utils.validators import PlainLine, ProviderName, Scope


class TokenRequest(BaseModel):
    """Which token a sibling service needs."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, PlainLine(128)]
    """A user id, or a user's id at the default issuer (Clerk)."""
    provider: ProviderName
    scopes: list[Scope] = Field(default=[], max_length=64)
    """Scopes, to all of which the user must have consented. May be empty if the service's grant is not limited to
    scopes."""
    account: Annotated[str, PlainLine(320)] | None = None
    """The account, by its id at the provider or its e-mail; default: that of the user's primary integration."""
    reason: Annotated[str, PlainLine(200)] | None = None
    """Why the service reads the token. The user sees it in the activity of the integration."""
    min_ttl_seconds: WholeNumber | None = Field(default=None, ge=1, le=86_400)
    """For how many more seconds the token must be valid; never more than half its lifetime is demanded. Without this
    member, a token with less than five minutes left is refreshed first, but handed out if that fails and 30 seconds are
    left."""


class TokenResponse(BaseModel):
    """A usable access token. Refresh tokens are never given out."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750
    expires_at: datetime | None
    """When the token expires; null if it does not."""
    expires_in: int | None
    """Seconds until the token expires; null if it does not."""
    scopes: list[str]
    provider: str
    account: str
    """The account's id at the provider."""
    integration_id: UUID
    refreshed: bool
    """Whether the token was refreshed at the provider while this call waited, for this call or for another."""


class TokenBatchRequest(BaseModel):
    """Up to 100 requests, each decided separately."""

    model_config = ConfigDict(extra="forbid")

    items: list[TokenRequest] = Field(min_length=1, max_length=100)


class TokenProblem(BaseModel):
    """Why there is no token, in some of the members of the problem that a request for this token alone would get."""

    type: str
    title: str
    status: int
    detail: str
    reason: str | None = None
    missing_scopes: list[str] | None = None
    reconnect_url: str | None = None
    retry_after: int | None = None
    """Seconds to wait before asking again."""

    @classmethod
    def of(cls, error: ApplicationError) -> "TokenProblem":
        """Build the problem from an error that a read of one token raised."""
        return cls(
            type=error.code,
            title=error.title,
            status=error.status,
            detail=error.detail,
            reason=error.extra.get("reason"),
            missing_scopes=error.extra.get("missing_scopes"),
            reconnect_url=error.extra.get("reconnect_url"),
            retry_after=getattr(error, "retry_after", None),
        )


class TokenBatchItem(BaseModel):
    """Either a token or a problem."""

    token: TokenResponse | None = None
    problem: TokenProblem | None = None


class TokenBatch(BaseModel):
    """The results, in the order of the requests."""

    items: list[TokenBatchItem]


class TokenExchangeResponse(BaseModel):
    """The answer to a token exchange (RFC 8693 section 2.2.1)."""

    access_token: str
    issued_token_type: str
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750
    expires_in: int | None = None
    """Seconds until the token expires; left out if it does not."""
    scope: str | None = None
    """The scopes that the user consented to; left out if the provider named none."""
    account: str
    """The account's id at the provider."""


class TokenReadEntry(BaseModel):
    """One request of a service for a token, granted or refused, as it is shown to the user."""

    id: UUID
    read_at: datetime
    service: str
    """Name of the sibling service."""
    outcome: str
    scopes: list[str]
    reason: str | None
    integration_id: UUID | None


TokenReadPage = Page[TokenReadEntry]
