"""The bodies of errors: problem details (RFC 9457) with further members that our clients rely on, and OAuth's form."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """The body of an error (RFC 9457). `type` is a stable code from the catalogue of errors; `message` repeats
    `detail`. Some errors have further members."""

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
    """The body of a refusal by the token endpoint (RFC 6749 section 5.2)."""

    model_config = ConfigDict(extra="allow")

    error: str
    error_description: str
    cause: str
    """This service's own code for the refusal, which is `type` in a problem."""
    request_id: str
    reason: str | None = None
    missing_scopes: list[str] | None = None
    reconnect_url: str | None = None
