"""A user's profile."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class UserResponse(BaseModel):
    """The profile as its owner sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    email: str | None
    email_verified: bool
    first_name: str | None
    last_name: str | None
    profile_image_url: str | None
    phone: str | None
    status: str
    onboarding_completed: bool
    onboarding_step: str | None
    last_login_at: datetime | None
    last_active_at: datetime | None
    created_at: datetime
    updated_at: datetime
