"""Refusals of the sandbox itself (its controls), as opposed to those of the parties it plays."""

from fastapi import Request
from fastapi.responses import JSONResponse


class SandboxError(Exception):
    """A control was used wrongly: `status` and a sentence that says how."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def sandbox_error_response(_: Request, problem: Exception) -> JSONResponse:
    """Return `{"detail": …}`, the form of FastAPI's own refusals."""
    if not isinstance(problem, SandboxError):
        raise problem
    return JSONResponse({"detail": problem.message}, problem.status)
