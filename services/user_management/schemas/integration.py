"""Integrations (users' linked accounts) as they are shown, the requests that connect, confirm and change one, and the
providers that can be connected."""

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
"""The statuses that are shown; a disconnected integration is not listed."""
OAuthCode = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,2048}$")]
FlowTicket = Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}\.[A-Za-z0-9_-]{43}$")]
OAuthState = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,256}$")]


class AuthorizeRequest(BaseModel):
    """The request that starts a connect attempt. Unless `new_account` is true, it addresses an existing integration, if
    there is one, to renew it or to add scopes: that of `account`, or by default the primary one."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] = Field(default=[], max_length=64)
    """Scopes to ask for in addition to those that the provider file requires and those that the addressed integration
    already has."""
    account: Annotated[str, PlainLine(320)] | None = None
    """The account whose integration is to be renewed or widened, by its id at the provider or its e-mail; default: the
    primary one."""
    new_account: bool = False
    """True connects another account: no existing integration is addressed, and no scopes are taken over from one."""
    return_url: Annotated[str, Field(max_length=2048)] | None = None
    """Where our callback sends the browser: one of FRONTEND_RETURN_URLS; default: the first."""
    redirect_uri: Annotated[str, Field(max_length=2048)] | None = None
    """Where the provider sends the browser: our callback, which is the default, or one of FRONTEND_REDIRECT_URIS, where
    the front end then confirms with `code` and `state`."""
    login_hint: Annotated[str, PlainLine(320)] | None = None
    """The account that the provider is to propose to the user; default: the e-mail of the addressed integration."""

    @model_validator(mode="after")
    def one_meaning(self) -> "AuthorizeRequest":
        if self.new_account and self.account is not None:
            raise ValueError("give either account or new_account")
        return self


class AuthorizeResponse(BaseModel):
    """A connect attempt that has begun. Send the browser to `authorization_url`. When the browser comes back to the
    return URL, confirm with the `flow` parameter of that URL; if the request named a `redirect_uri`, confirm with the
    `code` and `state` that arrive there.

    `flow_id` names the attempt in logs and audit rows; it cannot be used to confirm.
    """

    authorization_url: str
    flow_id: UUID
    expires_at: datetime


class ConfirmRequest(BaseModel):
    """The confirmation of a connect attempt: either `flow`, the parameter of the return URL, if the provider returned
    to our callback, or `code` and `state`, if the provider returned to the front end."""

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
    """One integration, without its tokens."""

    id: UUID
    provider: str
    provider_account_id: str
    account_email: str | None
    is_primary: bool
    """Whether requests that name no account mean this one."""
    status: ShownStatus
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: list[str]
    missing_scopes: list[str]
    """Scopes that were asked for or are required, and that the user did not consent to."""
    reconnect_url: str | None
    """Where to send the user to connect again, if the integration needs that, will need it for lack of a refresh token,
    or lacks scopes; null otherwise."""
    expires_at: datetime | None
    """When the access token expires; null if it does not."""
    has_refresh_token: bool
    metadata: dict[str, str]
    connected_at: datetime
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure_at: datetime | None
    last_used_at: datetime | None
    """When a service was last given a token; null if never."""
    version: int = Field(exclude=True)

    @property
    def etag(self) -> str:
        """Return the entity tag (RFC 9110 section 8.8.3). It is made of the version and of everything that can change
        without a new version: times, and values derived from the provider's file."""
        passing = (self.last_used_at, self.last_checked_at, self.last_failure_at, self.last_refresh_at)
        times = "-".join(f"{milliseconds(moment):x}" for moment in passing)
        derived = zlib.crc32(f"{self.missing_scopes}{self.reconnect_url}".encode())
        return f'"{self.version}-{times}-{derived:x}"'


MetadataName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
MAX_METADATA_ENTRIES: Final = 20


class IntegrationUpdate(BaseModel):
    """A merge patch (RFC 7396) of the members of an integration that the product may change."""

    model_config = ConfigDict(extra="forbid")

    is_primary: Literal[True] | None = None
    """`true` makes this the primary integration, the one that is meant by requests that name no account."""
    metadata: dict[MetadataName, Annotated[str, PlainLine(200)] | None] | None = None
    """The product's own notes, such as a label, by name: a text sets a note, null removes it, and notes that are not
    named stay. Null instead of the object removes all notes. An integration has at most 20."""


class DisconnectResponse(BaseModel):
    """An integration that was just disconnected here."""

    id: UUID
    provider: str
    provider_account_id: str
    revocation: Literal["pending", "impossible", "none"]
    """The revocation at the provider. `pending`: it is tried until it succeeds, for at most a week; `impossible`: the
    provider offers no way to revoke; `none`: there was no token."""
    revocation_note: str | None
    """What users can do at the provider themselves, if this service cannot revoke there."""


class IntegrationList(BaseModel):
    items: list[IntegrationResponse]


class ProviderResponse(BaseModel):
    """A provider that can be connected."""

    name: str
    display_name: str
    scopes: dict[str, str]
    """The provider's scopes, each with its purpose."""
    required_scopes: list[str]
    revocable: bool
    """Whether disconnecting also revokes the consent at the provider."""
    revocation_note: str | None


class ProviderList(BaseModel):
    items: list[ProviderResponse]
