"""Reads Clerk's events and the answers of its Backend API into our own types. Both describe a user in the same form."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from services.user_management.core.json_types import JSONObject
from services.user_management.enums import UpstreamStatus
from services.user_management.exceptions import UnreadableEventError
from services.user_management.schemas.webhook import ClerkSession, ClerkUser
from services.user_management.services.user_service import UpstreamUser
from services.user_management.utils.validators import MAX_EMAIL_CHARACTERS, http_url

MAX_NAME_CHARACTERS: Final = 256
"""The longest name that is taken over from upstream (the identity provider, Clerk). This is more than a name that is
edited here may have, so that names which upstream has accepted are seldom dropped."""
MAX_PHONE_CHARACTERS: Final = 32
"""E.164 allows 15 digits; the rest leaves room for however upstream formats a number."""

Model = TypeVar("Model", bound=BaseModel)

log = structlog.get_logger(__name__)


def read_user(described: JSONObject, *, issuer: str, told_at: datetime) -> UpstreamUser:
    """Read a user as `user.created`, `user.updated` or the Backend API describes them; `told_at` is when Clerk gave
    this description.

    A text that is too long, or an image URL that is not acceptable, becomes None and is logged; without an e-mail
    address, `email_verified` is False. Raises UnreadableEventError if the object does not have the form of a Clerk
    user.
    """
    user = _read(ClerkUser, described)
    email = user.primary_email
    address = _kept(user, "email", email.email_address if email else None, partial(_at_most, MAX_EMAIL_CHARACTERS))
    name = partial(_at_most, MAX_NAME_CHARACTERS)
    return UpstreamUser(
        issuer=issuer,
        subject=user.id,
        email=address,
        email_verified=bool(address and email and email.verification and email.verification.status == "verified"),
        first_name=_kept(user, "first_name", user.first_name, name),
        last_name=_kept(user, "last_name", user.last_name, name),
        profile_image_url=_kept(user, "profile_image_url", user.image_url, http_url),
        phone=_kept(user, "phone", user.primary_phone, partial(_at_most, MAX_PHONE_CHARACTERS)),
        status=_status(user),
        updated_at=user.updated_at,
        told_at=told_at,
    )


def read_session(described: JSONObject) -> ClerkSession:
    """Read the session that `session.created` describes. Raises UnreadableEventError if the object does not have the
    form of a Clerk session."""
    return _read(ClerkSession, described)


def subject_of(event_type: str, described: JSONObject) -> str | None:
    """Return Clerk's id of the user that an event is about; None if it names no user, or the id has more than 128
    characters.

    This covers event types that have no effect here, too: mails, messages and memberships hold personal data, which is
    erased with the user.
    """
    if event_type.startswith("user."):
        subject = described.get("id")
    else:
        member = described.get("public_user_data")
        subject = described.get("user_id") or (member.get("user_id") if isinstance(member, dict) else None)
    return subject if isinstance(subject, str) and len(subject) <= 128 else None


def _kept(user: ClerkUser, field: str, text: str | None, keep: Callable[[str], str]) -> str | None:
    """Return what `keep` makes of `text`. If `keep` raises ValueError, log the name of the field and return None, so
    that the user's other fields can still be used."""
    if text is None:
        return None
    try:
        return keep(text)
    except ValueError:
        log.warning("upstream_field.dropped", field=field, subject=user.id)
        return None


def _at_most(limit: int, text: str) -> str:
    if len(text) > limit:
        raise ValueError(f"longer than {limit} characters")
    return text


def _status(user: ClerkUser) -> UpstreamStatus:
    if user.deprovisioned:
        return UpstreamStatus.DEACTIVATED
    return UpstreamStatus.SUSPENDED if user.banned or user.locked else UpstreamStatus.ACTIVE


def _read(model: type[Model], described: JSONObject) -> Model:
    try:
        return model.model_validate(described)
    except ValidationError as error:
        # Name the fields, never their values: those are personal.
        fields = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        raise UnreadableEventError(f"not readable: {', '.join(fields)}") from None
