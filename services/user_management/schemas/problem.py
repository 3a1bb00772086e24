"""Errors, as RFC 9457 problem details with the members our clients have always had."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """`type` is a stable code from the catalogue; `message` repeats `detail`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    message: str
    details: dict[str, Any]
    timestamp: datetime
    request_id: str


class OAuthError(BaseModel):
    """A refusal of the token endpoint (RFC 6749 section 5.2)."""

    model_config = ConfigDict(extra="allow")

    error: str
    error_description: str
    cause: str
    """The code of this service for the refusal, as `type` of a problem has it."""
    request_id: str
    reason: str | None = None
    missing_scopes: list[str] | None = None
    reconnect_url: str | None = None
