"""Liveness and readiness."""

from typing import Literal

from pydantic import BaseModel

ComponentState = Literal["ok", "unavailable", "unknown"]


class HealthResponse(BaseModel):
    """The process lives. The components are as last seen; nothing was asked for this answer."""

    status: Literal["ok"] = "ok"
    database: ComponentState
    redis: ComponentState
    rate_limiter: Literal["shared", "in_process"]
    """`in_process`: Redis is away, and each process counts requests for itself."""


class ReadyResponse(BaseModel):
    """Whether this process is ready for traffic. It is ready even with `redis: degraded`."""

    status: Literal["ready", "starting", "draining", "unavailable"]
    database: ComponentState
    redis: Literal["ok", "degraded"]
