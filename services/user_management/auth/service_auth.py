"""Authenticates sibling services by their keys, `ums_<id>_<secret>`, which stand in a bearer token, in `X-API-Key` or,
on OAuth routes, in `client_secret`; and checks services' permissions.

The guards need nothing but the request, so that a DirectRoute, which resolves no dependencies, can call them; their
other parameters serve only to describe the credentials in the OpenAPI document.
"""

import base64
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final
from urllib.parse import unquote_plus

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from services.user_management.auth.credentials import bearer_token
from services.user_management.auth.dependencies import get_container
from services.user_management.auth.principals import remember_principal
from services.user_management.auth.rate_limits import refusal_limit, spend_internal
from services.user_management.core.principal import Principal
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import (
    DatabaseUnavailableError,
    ForbiddenError,
    RateLimitedError,
    UnauthenticatedError,
    raises,
)
from services.user_management.security.signing import sha256
from services.user_management.services.service_credentials import KEY_PREFIX, ServiceCredential

_CREDENTIAL: Final = "user_management.service_credential"
"""Where the request's scope keeps the key once it has been parsed."""
_KEY: Final = re.compile(rf"{KEY_PREFIX}_([0-9a-f]{{12}})_([0-9a-f]{{64}})")

# These two are for the schema only: `service_credential` reads the same headers, strictly.
_documented_bearer = HTTPBearer(scheme_name="serviceKey", auto_error=False, description="ums_<id>_<secret>")
_documented_header = APIKeyHeader(name="X-API-Key", scheme_name="serviceKeyHeader", auto_error=False)
DocumentedBearer = Annotated[object, Security(_documented_bearer)]
DocumentedHeader = Annotated[object, Security(_documented_header)]


def presents_service_key(request: Request) -> bool:
    """Tell whether the request has an `X-API-Key` header, or a credential that begins like a service key in an
    `Authorization` header. Whether the key is well-formed or valid is not checked."""
    authorizations = request.headers.getlist("authorization")
    return "x-api-key" in request.headers or any(
        value.partition(" ")[2].startswith(f"{KEY_PREFIX}_") for value in authorizations
    )


def service_credential(request: Request) -> ServiceCredential:
    """Return the service key of the request, with its secret hashed, without checking that it is valid: the SQL
    statement that uses it does that. Raises UnauthenticatedError if there is no well-formed key, or more than one
    credential."""
    credential: ServiceCredential | None = request.scope.get(_CREDENTIAL)
    if credential is None:
        credential = request.scope[_CREDENTIAL] = _parse_credential(request)
    return credential


def _parse_credential(request: Request) -> ServiceCredential:
    api_keys = request.headers.getlist("x-api-key")
    if len(api_keys) > 1 or (api_keys and "authorization" in request.headers):
        raise UnauthenticatedError("Send one credential.")
    key = _KEY.fullmatch(api_keys[0] if api_keys else bearer_token(request))
    if key is None:
        raise UnauthenticatedError("The credential is not a service key.")
    return ServiceCredential(key_id=key[1], secret_hash=sha256(key[2]))


def client_credential(request: Request, form: Mapping[str, str]) -> ServiceCredential:
    """Return the service key of the request, valid or not. Besides the headers that `service_credential` reads, the key
    may be the `client_secret` in HTTP Basic or in the form, where OAuth clients put it (RFC 6749 section 2.3.1).

    In these two places, `client_id` must be `ums_<id>`, the part of the key that is not secret. Raises
    UnauthenticatedError if there is no well-formed key, or more than one credential.
    """
    basic = _basic_pair(request)
    posted = (form.get("client_id", ""), form["client_secret"]) if "client_secret" in form else None
    if basic is None and posted is None:
        return service_credential(request)
    if (basic and posted) or (posted and "authorization" in request.headers) or "x-api-key" in request.headers:
        raise UnauthenticatedError("Send one credential.")
    client_id, secret = basic or posted or ("", "")
    key = _KEY.fullmatch(secret)
    if key is None or client_id != f"{KEY_PREFIX}_{key[1]}":
        raise UnauthenticatedError("The credential is not a service key.")
    return ServiceCredential(key_id=key[1], secret_hash=sha256(key[2]))


def _basic_pair(request: Request) -> tuple[str, str] | None:
    """Return (client id, client secret) of HTTP Basic, both form-decoded; None for another scheme, or if there is not
    exactly one `Authorization` header. Raises UnauthenticatedError if the header is HTTP Basic but malformed."""
    values = request.headers.getlist("authorization")
    scheme, _, encoded = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except ValueError:
        raise UnauthenticatedError("The Authorization header is not HTTP Basic.") from None
    return unquote_plus(client_id), unquote_plus(secret)


async def refuse_guesses(request: Request, credential: ServiceCredential) -> None:
    """Refuse a key that is probably guessed, because too many credentials from its address were refused, before it
    costs an SQL statement. Raises RateLimitedError, DatabaseUnavailableError.

    A valid key is not refused for what others at its address do: while the address has to wait, keys are looked up in a
    list of the valid keys, which is shared by all addresses and read from the database at most once a second. A key
    that is newer than the list is refused until the list is read again; before a list could be read, no key is refused.
    A key on the list is still checked by the SQL statement that uses it. A process knows that an address has to wait
    only once the rate limit has refused the address in this process. So each time the limit allows the address another
    refused credential, one or two more guesses get as far as an SQL statement.
    """
    wait = await refusal_limit.known_wait(request)
    container = get_container(request)
    if wait and not await container.credentials.authentication.is_listed(credential):
        raise container.resources.rate_limits.refusal(refusal_limit.rate_class, wait)


async def get_current_service(
    request: Request, _bearer: DocumentedBearer = None, _header: DocumentedHeader = None
) -> Principal:
    """Guard: authenticate the calling service by its key and return its principal, which is also kept with the request.
    The request is counted against the service's rate limit. Raises UnauthenticatedError, RateLimitedError,
    DatabaseUnavailableError."""
    credential = service_credential(request)
    await refuse_guesses(request, credential)
    principal = await get_container(request).credentials.authentication.authenticate(credential)
    remember_principal(request, principal)
    spend_internal(request, principal.id)
    return principal


CurrentService = Annotated[Principal, Depends(get_current_service)]


def require(principal: Principal, permission: ServicePermission) -> None:
    """Check that the principal has the permission; administrators have all. Raises ForbiddenError."""
    if not (principal.is_admin or permission in principal.permissions):
        raise ForbiddenError


def permitted(permission: ServicePermission) -> Callable[..., Coroutine[Any, Any, Principal]]:
    """Return a guard that lets in the calling service if it has `permission`. The guard raises UnauthenticatedError,
    RateLimitedError, DatabaseUnavailableError, ForbiddenError."""

    @raises(UnauthenticatedError, RateLimitedError, DatabaseUnavailableError, ForbiddenError)
    async def get_permitted_service(
        request: Request, _bearer: DocumentedBearer = None, _header: DocumentedHeader = None
    ) -> Principal:
        service = await get_current_service(request)
        require(service, permission)
        return service

    return get_permitted_service
