"""The responses that tell whether a process is alive, and whether it is ready for traffic."""

from typing import Literal

from pydantic import BaseModel

ComponentState = Literal["ok", "unavailable", "unknown"]


class HealthResponse(BaseModel):
    """The response of a process that is alive. The states of components are those last seen; this request queries
    none."""

    status: Literal["ok"] = "ok"
    database: ComponentState
    redis: ComponentState
    rate_limiter: Literal["shared", "in_process"]
    """`shared`: all processes count requests together; `in_process`: Redis does not answer, and each process counts on
    its own."""


class ReadyResponse(BaseModel):
    """Whether this process is ready for traffic. It is ready even with `redis: degraded`."""

    status: Literal["ready", "starting", "draining", "unavailable"]
    database: ComponentState
    redis: Literal["ok", "degraded"]
