"""Settings of a provider, which tests may change."""

from pydantic import BaseModel, ConfigDict, Field

DAY_SECONDS = 86_400


class ProviderSettings(BaseModel):
    """Settings of one provider; all times are in seconds."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    access_token_lifetime_seconds: int = Field(default=3600, ge=1)
    code_lifetime_seconds: float = Field(default=600, gt=0)
    grace_seconds: float = Field(default=60, ge=0)
    delay_seconds: float = Field(default=0, ge=0)
    """How long every call of the token endpoint waits before it is carried out."""
    clock_offset_seconds: int = 0
    """How far the provider's clock is ahead. It shows in ID tokens; lifetimes do not depend on it."""
