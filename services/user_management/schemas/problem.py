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
