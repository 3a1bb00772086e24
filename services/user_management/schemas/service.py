"""Sibling services (programs that call us with a key) as administrators see them, and the requests that change them."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, computed_field

from services.user_management.enums import ServicePermission
from services.user_management.utils.scalars import WholeNumber
from services.user_management.utils.validators import Scope

SERVICE_NAME_PATTERN: Final = r"^[a-z][a-z0-9-]{0,62}$"
KEY_ID_PATTERN: Final = r"^[0-9a-f]{12}$"
DEFAULT_OVERLAP_SECONDS: Final = 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
"""The longest time for which former keys may stay valid, 30 days: a key that is needed for longer should not be rotated
yet."""

ServiceName = Annotated[str, StringConstraints(pattern=SERVICE_NAME_PATTERN)]


class CreateServiceRequest(BaseModel):
    """A request to register a sibling service."""

    model_config = ConfigDict(extra="forbid")

    name: ServiceName
    permissions: list[ServicePermission] = Field(default=[], max_length=64)


class PermissionsRequest(BaseModel):
    """The complete set of permissions of a service, which replaces the former one."""

    model_config = ConfigDict(extra="forbid")

    permissions: list[ServicePermission] = Field(max_length=64)


class GrantRequest(BaseModel):
    """A request to let a service read users' tokens of one provider."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] | None = Field(min_length=1, max_length=64)
    """The scopes that the service may ask for. Null allows any; it must be given explicitly, because it is the widest
    grant there is."""
    reason_required: StrictBool = False
    """Whether every read must give a reason."""


class RotateKeyRequest(BaseModel):
    """A request for a new key of a service."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: WholeNumber = Field(default=DEFAULT_OVERLAP_SECONDS, ge=0, le=MAX_OVERLAP_SECONDS)
    """How many seconds the former keys stay valid; 0 ends them at once."""


class NewServiceKey(BaseModel):
    """A new key of the service `name`, shown once and never again: only the hash of its secret is stored."""

    name: str
    key: str = Field(repr=False)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented order of decorators
    @property
    def key_id(self) -> str:
        """The part of the key that identifies it in lists and records."""
        return self.key.split("_")[1]


class ServiceKeySummary(BaseModel):
    """A service's key, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """When the key was last used, to the minute."""
    revoked_at: datetime | None
    live: bool
    """Whether the key is neither revoked nor expired. It is refused all the same while its service is disabled."""


class ServiceGrantSummary(BaseModel):
    """The right of a service to read tokens of one provider."""

    model_config = ConfigDict(from_attributes=True)

    provider: str
    scopes: list[str] | None
    """The scopes that the service may ask for; null allows any."""
    reason_required: bool


class ServiceResponse(BaseModel):
    """A sibling service with its permissions, grants and keys, without secrets or their hashes."""

    name: str
    created_at: datetime
    disabled_at: datetime | None
    permissions: list[str]
    grants: list[ServiceGrantSummary]
    keys: list[ServiceKeySummary]


class ServiceList(BaseModel):
    """All services, in the order of their names."""

    items: list[ServiceResponse]


class RevokedKeys(BaseModel):
    """How many keys this request has revoked."""

    revoked: int
