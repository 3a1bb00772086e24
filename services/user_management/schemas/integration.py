"""Connections and the way to make one."""

import zlib
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.user_management.core.clock import milliseconds
from services.user_management.enums import IntegrationStatus
from services.user_management.utils.validators import PlainLine, Scope

ShownStatus = Literal[
    IntegrationStatus.ACTIVE, IntegrationStatus.DEGRADED, IntegrationStatus.NEEDS_REAUTH, IntegrationStatus.REVOKED
]
"""A connection that is disconnected is shown nowhere."""
OAuthCode = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,2048}$")]
FlowTicket = Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}\.[A-Za-z0-9_-]{43}$")]
OAuthState = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,256}$")]


class AuthorizeRequest(BaseModel):
    """Start of a connection."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] = Field(default=[], max_length=64)
    """Asked for beside what the provider file requires, and beside what the addressed connection has already."""
    account: Annotated[str, PlainLine(320)] | None = None
    """Account id at the provider, or its e-mail: which connection is to be renewed or widened; default: the primary
    one."""
    new_account: bool = False
    """Connect one more account: nothing that another connection has is asked for."""
    return_url: Annotated[str, Field(max_length=2048)] | None = None
    """One of FRONTEND_RETURN_URLS; default: the first."""
    redirect_uri: Annotated[str, Field(max_length=2048)] | None = None
    """One of FRONTEND_REDIRECT_URIS: the provider returns there, and the front end confirms with `code` and `state`.
    Default: our callback."""
    login_hint: Annotated[str, PlainLine(320)] | None = None
    """Which account the provider proposes; default: the e-mail of the addressed connection."""

    @model_validator(mode="after")
    def one_meaning(self) -> "AuthorizeRequest":
        if self.new_account and self.account is not None:
            raise ValueError("give either account or new_account")
        return self


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
    iss: Annotated[str, Field(max_length=2048)] | None = None
    """With `code` and `state`: the provider's `iss`, if it sent one (RFC 9207)."""

    @model_validator(mode="after")
    def one_way(self) -> "ConfirmRequest":
        by_code = self.code is not None and self.state is not None
        if (self.flow is not None) == by_code or (self.code is None) != (self.state is None):
            raise ValueError("give either flow, or code and state")
        if self.flow is not None and self.iss is not None:
            raise ValueError("iss goes with code and state")
        return self


class IntegrationResponse(BaseModel):
    """One connection; never a token."""

    id: UUID
    provider: str
    provider_account_id: str
    account_email: str | None
    is_primary: bool
    """Whether this account is meant when nobody names one."""
    status: ShownStatus
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: list[str]
    missing_scopes: list[str]
    """Asked for or required, and not granted."""
    reconnect_url: str | None
    """Where to send the user, if the connection needs them or lacks scopes."""
    expires_at: datetime | None
    """Of the access token; null: it does not run out."""
    has_refresh_token: bool
    metadata: dict[str, str]
    connected_at: datetime
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure_at: datetime | None
    last_used_at: datetime | None
    """When a service was last given a token."""
    version: int = Field(exclude=True)

    @property
    def etag(self) -> str:
        """Entity tag (RFC 9110 section 8.8.3): the version, and what changes without one: times, and what follows from
        the provider's file."""
        passing = (self.last_used_at, self.last_checked_at, self.last_failure_at, self.last_refresh_at)
        times = "-".join(f"{milliseconds(moment):x}" for moment in passing)
        derived = zlib.crc32(f"{self.missing_scopes}{self.reconnect_url}".encode())
        return f'"{self.version}-{times}-{derived:x}"'


MetadataName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
MAX_METADATA_ENTRIES: Final = 20


class IntegrationUpdate(BaseModel):
    """JSON Merge Patch of what the product may change of a connection."""

    model_config = ConfigDict(extra="forbid")

    is_primary: Literal[True] | None = None
    """`true`: this account is meant from now on when nobody names one."""
    metadata: dict[MetadataName, Annotated[str, PlainLine(200)] | None] | None = None
    """The product's own notes, such as a label: given names replace, null removes, others stay; at most 20."""


class DisconnectResponse(BaseModel):
    """A connection that has ended here."""

    id: UUID
    provider: str
    provider_account_id: str
    revocation: Literal["pending", "impossible", "none"]
    """At the provider: `pending` is tried until it sticks; `impossible`: it offers no way; `none`: there was no token.
    """
    revocation_note: str | None
    """What the user can do there themselves, where we cannot."""


class IntegrationList(BaseModel):
    items: list[IntegrationResponse]


class ProviderResponse(BaseModel):
    """A provider that can be connected."""

    name: str
    display_name: str
    scopes: dict[str, str]
    """Scope → what it is for."""
    required_scopes: list[str]
    revocable: bool
    """Whether disconnecting also ends the grant at the provider."""
    revocation_note: str | None


class ProviderList(BaseModel):
    items: list[ProviderResponse]
