"""Errors of the sandbox itself, as opposed to those of the parties that it imitates."""

from fastapi import Request
from fastapi.responses import JSONResponse


class SandboxError(Exception):
    """A request that the sandbox itself refuses: the HTTP `status`, and a sentence that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def sandbox_error_response(_: Request, problem: Exception) -> JSONResponse:
    """Return `{"detail": …}`, the format of FastAPI's own errors. Raises any exception but `SandboxError` again."""
    if not isinstance(problem, SandboxError):
        raise problem
    return JSONResponse({"detail": problem.message}, problem.status)
