"""Connections and the way to make one."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.user_management.utils.validators import PlainLine, Scope

OAuthCode = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,2048}$")]
FlowTicket = Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}\.[A-Za-z0-9_-]{43}$")]
OAuthState = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,256}$")]


class AuthorizeRequest(BaseModel):
    """Start of a connection."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] = Field(default=[], max_length=64)
    return_url: Annotated[str, Field(max_length=2048)] | None = None
    """One of FRONTEND_RETURN_URLS; default: the first."""
    login_hint: Annotated[str, PlainLine(320)] | None = None


class AuthorizeResponse(BaseModel):
    """Send the browser to `authorization_url`. When it comes back to the return URL, confirm with its `flow` parameter.

    `flow_id` names the attempt in logs and audit rows; it confirms nothing.
    """

    authorization_url: str
    flow_id: UUID
    expires_at: datetime


class ConfirmRequest(BaseModel):
    """Either `flow`, the parameter of the return URL (the provider returned to our callback), or `code` and `state` (it
    returned to the front end)."""

    model_config = ConfigDict(extra="forbid")

    flow: FlowTicket | None = None
    code: OAuthCode | None = None
    state: OAuthState | None = None

    @model_validator(mode="after")
    def one_way(self) -> "ConfirmRequest":
        by_code = self.code is not None and self.state is not None
        if (self.flow is not None) == by_code or (self.code is None) != (self.state is None):
            raise ValueError("give either flow, or code and state")
        return self


class IntegrationResponse(BaseModel):
    """One connection; never a token."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    provider: str
    provider_account_id: str
    account_email: str | None
    is_primary: bool
    status: str
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: list[str]
    last_refresh_at: datetime | None
    connected_at: datetime


class IntegrationList(BaseModel):
    items: list[IntegrationResponse]


class ProviderResponse(BaseModel):
    """A provider that can be connected."""

    name: str
    display_name: str
    scopes: dict[str, str]
    """Scope → what it is for."""
    required_scopes: list[str]


class ProviderList(BaseModel):
    items: list[ProviderResponse]
