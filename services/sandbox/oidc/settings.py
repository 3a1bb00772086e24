"""What a test may set on a provider."""

from pydantic import BaseModel, ConfigDict, Field

DAY_SECONDS = 86_400


class ProviderSettings(BaseModel):
    """Settings of one kind; seconds throughout."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    access_token_lifetime_seconds: int = Field(default=3600, ge=1)
    code_lifetime_seconds: float = Field(default=600, gt=0)
    grace_seconds: float = Field(default=60, ge=0)
    delay_seconds: float = Field(default=0, ge=0)
    """How long every call of the token endpoint takes."""
    clock_offset_seconds: int = 0
    """How far the provider's clock is ahead. It shows in id_tokens; lifetimes are measured and do not change."""
