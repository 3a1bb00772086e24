"""What Clerk's events and its Backend API say, in our terms. Both describe a user with the same members."""

from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from services.user_management.enums import UpstreamStatus
from services.user_management.exceptions import UnreadableEventError
from services.user_management.schemas.webhook import ClerkSession, ClerkUser
from services.user_management.services.user_service import UpstreamUser

Model = TypeVar("Model", bound=BaseModel)


def read_user(described: dict[str, Any], *, issuer: str, told_at: datetime) -> UpstreamUser:
    """The user of `user.created`, `user.updated` or the Backend API. Raises UnreadableEventError."""
    user = _read(ClerkUser, described)
    email = user.primary_email
    return UpstreamUser(
        issuer=issuer,
        subject=user.id,
        email=email.email_address if email else None,
        email_verified=bool(email and email.verification and email.verification.status == "verified"),
        first_name=user.first_name,
        last_name=user.last_name,
        profile_image_url=user.image_url,
        phone=user.primary_phone,
        status=_status(user),
        updated_at=user.updated_at,
        told_at=told_at,
    )


def read_session(described: dict[str, Any]) -> ClerkSession:
    """The session of `session.created`. Raises UnreadableEventError."""
    return _read(ClerkSession, described)


def subject_of(event_type: str, described: dict[str, Any]) -> str | None:
    """Clerk's id of the user that an event is about, if it is about one.

    Also for types without an effect here: mails, messages and memberships hold personal data, erased with the user.
    """
    if event_type.startswith("user."):
        subject = described.get("id")
    else:
        member = described.get("public_user_data")
        subject = described.get("user_id") or (member.get("user_id") if isinstance(member, dict) else None)
    return subject if isinstance(subject, str) and len(subject) <= 128 else None


def _status(user: ClerkUser) -> UpstreamStatus:
    if user.deprovisioned:
        return UpstreamStatus.DEACTIVATED
    return UpstreamStatus.SUSPENDED if user.banned or user.locked else UpstreamStatus.ACTIVE


def _read(model: type[Model], described: dict[str, Any]) -> Model:
    try:
        return model.model_validate(described)
    except ValidationError as error:
        # Where, never what: the values are personal.
        fields = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        raise UnreadableEventError(f"not readable: {', '.join(fields)}") from None
