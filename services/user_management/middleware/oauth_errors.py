"""The refusals of our token endpoint in the form that OAuth clients read (RFC 6749 section 5.2)."""

import re
from typing import Final

from fastapi.responses import JSONResponse
from starlette.types import Scope

from services.user_management.core.context import current_context
from services.user_management.exceptions import (
    MALFORMED_IN_OAUTH,
    ApplicationError,
    TokenExchangeError,
    UnauthenticatedError,
)

TOKEN_PATH: Final = "/internal/oauth/token"  # noqa: S105 - a path
UNCACHED: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""Headers that keep answers, tokens and refusals alike, out of caches (RFC 6749 section 5.1)."""
_NOT_DESCRIBABLE: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""Characters that `error_description` may not hold: quotes, backslashes and all but printable ASCII."""


def is_token_endpoint(scope: Scope) -> bool:
    """Tell whether the path is that of the token endpoint, under any prefix and whatever the method."""
    path: str = scope["path"]
    return path.endswith(TOKEN_PATH)


def oauth_error_response(scope: Scope, error: ApplicationError) -> JSONResponse:
    """Return the response for an error in OAuth's form, with its body and headers. The member `cause` is this service's
    own code; the error's extra members, on which a caller can act (`reconnect_url` …), are in the body too."""
    body = {
        "error": _name(error),
        "error_description": _NOT_DESCRIBABLE.sub("'", error.detail),
        "cause": error.code,
        "request_id": current_context().request_id,
        **error.extra,
    }
    headers = error.headers | UNCACHED
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = f'{_scheme(scope)} realm="user-management"'
    status = 400 if error.status in MALFORMED_IN_OAUTH else error.status
    return JSONResponse(body, status_code=status, headers=headers)


def _name(error: ApplicationError) -> str:
    if isinstance(error, TokenExchangeError):
        return error.error
    if isinstance(error, UnauthenticatedError):
        return "invalid_client"
    if error.status == 500:
        return "server_error"
    return "temporarily_unavailable" if error.status == 429 or error.status > 500 else "invalid_request"


def _scheme(scope: Scope) -> str:
    """Return the authentication scheme that the client tried; for a client that sent its secret in another way, the
    one that OAuth demands."""
    schemes = [value.partition(b" ")[0].lower() for name, value in scope["headers"] if name == b"authorization"]
    return "Bearer" if schemes == [b"bearer"] else "Basic"
