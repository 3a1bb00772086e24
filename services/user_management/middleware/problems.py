"""Answers to errors: as a problem (RFC 9457) or, at our token endpoint, in OAuth's form. HANDLERS are the exception
handlers of the application; an error that none of them takes is answered by RequestContextMiddleware."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.types import Scope

from services.user_management.auth.rate_limits import refusal_limit
from services.user_management.core.context import current_context
from services.user_management.database import is_unavailable
from services.user_management.exceptions import (
    ApplicationError,
    BodyTooLargeError,
    DatabaseUnavailableError,
    InvalidJSONError,
    MethodNotAllowedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    ValidationFailedError,
)
from services.user_management.middleware.oauth_errors import is_token_endpoint, oauth_error_response

MEDIA_TYPE: Final = "application/problem+json"
_FRAMEWORK_ERRORS: Final[Mapping[int, type[ApplicationError]]] = {
    400: InvalidJSONError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    413: BodyTooLargeError,
}

log = structlog.get_logger(__name__)


def refusal_response(scope: Scope, error: ApplicationError) -> JSONResponse:
    """Return the response for an error: a problem (RFC 9457) or, at our token endpoint, OAuth's form."""
    return oauth_error_response(scope, error) if is_token_endpoint(scope) else problem_response(error)


def problem_response(error: ApplicationError) -> JSONResponse:
    """Return the response for an error as a problem (RFC 9457), with its body and headers."""
    body = {
        "type": error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "message": error.detail,
        "details": {},
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "request_id": current_context().request_id,
        **error.extra,
    }
    return JSONResponse(body, status_code=error.status, headers=error.headers, media_type=MEDIA_TYPE)


def as_application_error(error: Exception) -> ApplicationError:
    """Return the error with which to answer the caller: `error` itself if it is an ApplicationError;
    DatabaseUnavailableError if Postgres does not answer or rolled the transaction back in favour of another one;
    otherwise a plain ApplicationError (500). Errors of the last two kinds are logged here, once."""
    if isinstance(error, ApplicationError):
        return error
    if is_unavailable(error):
        log.warning("database.unavailable", reason=type(error).__name__)
        return DatabaseUnavailableError(retry_after=1)
    log.error("request.crashed", exc_info=error)
    return ApplicationError()


async def handle_application_error(request: Request, error: Exception) -> Response:
    """Answer an error that this service raised itself."""
    return refusal_response(request.scope, as_application_error(error))


async def handle_unauthenticated(request: Request, error: UnauthenticatedError) -> Response:
    """Answer a request without a good credential, and count it against the rate limit of its address, on every route
    alike; over that limit the answer is 429. It is not counted if `error.counts` is False: then the credential was no
    guess."""
    if error.counts:
        try:
            await refusal_limit(request)
        except RateLimitedError as refusal:
            return refusal_response(request.scope, refusal)
    return refusal_response(request.scope, error)


async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Answer FastAPI's validation error with 422 (400 in OAuth's form), without the input that FastAPI would repeat."""
    return refusal_response(request.scope, ValidationFailedError.of_fields(error.errors()))


async def handle_http_exception(request: Request, error: HTTPException) -> Response:
    """Answer an error that the framework raises by itself, such as for an unknown path or method."""
    problem = _FRAMEWORK_ERRORS.get(error.status_code, ApplicationError)
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    return refusal_response(request.scope, problem(headers=headers))


def _allowed(request: Request) -> list[str]:
    """Return all methods of the path (RFC 9110 section 15.5.6); the framework names only those of the first route
    that fits."""
    path = request.scope["path"]
    fitting = [route for route in iter_route_contexts(request.app.routes) if route.path_regex.match(path)]
    # Where a fixed path (`/users/search`) fits, the methods of a fitting template (`/users/{user_id}`) do not count.
    routes = [route for route in fitting if not route.param_convertors] or fitting
    methods = {method for route in routes for method in route.methods or ()}
    return [method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if method in methods]


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    ApplicationError: handle_application_error,
    UnauthenticatedError: handle_unauthenticated,
    RequestValidationError: handle_validation_error,
    HTTPException: handle_http_exception,
}
