"""The route for token exchange (RFC 8693), for services that speak OAuth: the same tokens under the same rules as `POST
/internal/tokens/get`."""

from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response

from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.service_auth import (
    DocumentedBearer,
    DocumentedHeader,
    client_credential,
    refuse_guesses,
)
from services.user_management.auth.token_caller import count_read
from services.user_management.core.context import allow_body
from services.user_management.core.parsing import AT_ONCE_BYTES, parse_aside
from services.user_management.exceptions import (
    DatabaseUnavailableError,
    KeySetUnavailableError,
    KeyUnavailableError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    RateLimitedError,
    TokenExchangeError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
    raises,
)
from services.user_management.routers.strict_route import StrictRoute
from services.user_management.schemas.token import TokenExchangeResponse
from services.user_management.services.service_credentials import ServiceCredential
from services.user_management.services.token_service import GRANT_TYPE, JWT, USER_ID

MAX_FIELDS: Final = 32
_TEXT: Final = {"type": "string"}
FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type", "subject_token", "subject_token_type", "audience"],
                    "properties": {
                        "grant_type": {**_TEXT, "const": GRANT_TYPE},
                        "subject_token": {**_TEXT, "description": "A session token of the user, or a user id"},
                        "subject_token_type": {**_TEXT, "enum": [JWT, USER_ID]},
                        "audience": {**_TEXT, "description": "Name of the provider"},
                        "scope": {**_TEXT, "description": "Scopes, separated by spaces"},
                        "account": _TEXT,
                        "reason": _TEXT,
                        "min_ttl_seconds": {"type": "integer", "minimum": 1, "maximum": 86400},
                    },
                }
            }
        },
    }
}

router = APIRouter(prefix="/internal/oauth", tags=["internal"], route_class=StrictRoute)


async def read_form(request: Request) -> dict[str, str]:
    """Read the form and return its fields; blank ones are left out. Raises UnsupportedMediaTypeError,
    BodyTooLargeError, and TokenExchangeError if the body is not a form, has more than 32 fields, or has a field twice
    (RFC 6749 section 3.2)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise UnsupportedMediaTypeError("Send application/x-www-form-urlencoded.")
    try:
        pairs = await parse_aside(_pairs, await request.body())
    except ValueError:
        raise TokenExchangeError("invalid_request", "The body is not a form.") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise TokenExchangeError("invalid_request", "A field occurs twice.")
    return {name: value for name, value in pairs if value}


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)


@raises(UnauthenticatedError, RateLimitedError, DatabaseUnavailableError)
async def exchange_caller(
    request: Request, _bearer: DocumentedBearer = None, _header: DocumentedHeader = None
) -> ServiceCredential:
    """Guard: return the service key from the header or form field in which the OAuth client sent it, refuse a key that
    is probably guessed, and count one read against the key's rate limit. The form is read here only if the request has
    neither an `Authorization` nor an `X-API-Key` header. It may then have at most 8 KiB, because the caller has shown
    no key yet. Whether the key is valid is checked later, by the statement that reads the token.

    Raises UnauthenticatedError, RateLimitedError, DatabaseUnavailableError, and what `read_form` raises.
    """
    in_header = "authorization" in request.headers or "x-api-key" in request.headers
    form: dict[str, str] = {}
    if not in_header and _is_form(request):
        allow_body(AT_ONCE_BYTES)
        form = await read_form(request)
    credential = client_credential(request, form)
    await refuse_guesses(request, credential)
    count_read(request, credential)
    return credential


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded")


@router.post("/token", openapi_extra=FORM, response_model_exclude_none=True)
@raises(
    TokenExchangeError,
    UnsupportedMediaTypeError,
    KeySetUnavailableError,
    ProviderUnavailableError,
    ProviderMisconfiguredError,
    KeyUnavailableError,
)
async def exchange_token(
    request: Request,
    credential: Annotated[ServiceCredential, Depends(exchange_caller)],
    container: ContainerDependency,
    response: Response,
) -> TokenExchangeResponse:
    """Return a provider's access token for the user of `subject_token` (RFC 8693). Refusals have the form of RFC 6749
    section 5.2; their `cause` is this service's own error code."""
    response.headers["Pragma"] = "no-cache"  # in addition to the Cache-Control of every response (RFC 6749 section 5.1)
    form = await read_form(request)
    # If a header had the key, the guard has not read the form; a second key in the form is refused here.
    client_credential(request, form)
    return await container.tokens.exchange.exchange(credential, form)
