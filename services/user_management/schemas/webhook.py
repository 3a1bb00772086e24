"""The events of Clerk's webhooks, parsed leniently: members that we do not know are ignored, since Clerk adds some over
time. Also our answer to a webhook.

Source: Clerk's webhook schemas, version 2025-04-15.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


def _from_epoch(value: Any) -> Any:
    """Read a Unix time in milliseconds or seconds, distinguished by magnitude: Clerk's documentation says milliseconds,
    but its own examples have seconds. Return anything but a number unchanged. Raises ValueError for a number out of
    range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        seconds = value / 1000 if value > 10**11 else value
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise ValueError("not a time") from None


EpochTime = Annotated[
    AwareDatetime,
    BeforeValidator(_from_epoch),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}],
            "description": "Unix time in milliseconds or in seconds, or RFC 3339",
        }
    ),
]


class ClerkEvent(BaseModel):
    """An event of Clerk's: what happened (`type`), when, and the object that it happened to (`data`)."""

    type: str = Field(min_length=1, max_length=100)
    timestamp: EpochTime
    instance_id: str | None = None
    data: dict[str, Any]


class ClerkVerification(BaseModel):
    status: str | None = None


class ClerkEmailAddress(BaseModel):
    id: str
    email_address: str
    verification: ClerkVerification | None = None


class ClerkPhoneNumber(BaseModel):
    id: str
    phone_number: str


class ClerkUser(BaseModel):
    """The members of a Clerk user that we read. A user may have no e-mail address at all."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(min_length=1, max_length=128)
    first_name: str | None = None
    last_name: str | None = None
    image_url: str | None = None
    primary_email_address_id: str | None = None
    email_addresses: list[ClerkEmailAddress] = []
    primary_phone_number_id: str | None = None
    phone_numbers: list[ClerkPhoneNumber] = []
    banned: bool = False
    locked: bool = False
    deprovisioned: bool | None = None
    updated_at: EpochTime

    @property
    def primary_email(self) -> ClerkEmailAddress | None:
        """Return the address whose id is `primary_email_address_id`; None if it is not in the list, as in Clerk's own
        example."""
        matches = (item for item in self.email_addresses if item.id == self.primary_email_address_id)
        return next(matches, None)

    @property
    def primary_phone(self) -> str | None:
        matches = (item.phone_number for item in self.phone_numbers if item.id == self.primary_phone_number_id)
        return next(matches, None)


class ClerkSession(BaseModel):
    """The members of a Clerk session that we read."""

    id: str = Field(min_length=1, max_length=128)
    user_id: str = Field(min_length=1, max_length=64)
    created_at: EpochTime
    actor: dict[str, Any] | None = None
    """Who acts as the user, if the session is impersonated; None if it is the user's own."""


class WebhookAccepted(BaseModel):
    """The receipt for an event, which is stored. `duplicate`: it was stored before. `applied`: it has taken effect, or
    has none here; otherwise this service retries it for a while, and the sender need not send it again."""

    duplicate: bool
    applied: bool
