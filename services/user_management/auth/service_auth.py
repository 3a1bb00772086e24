"""Service keys: `ums_<id>_<secret>`, as a bearer token or in `X-API-Key`."""

import re
from typing import Final

from fastapi import Request

from services.user_management.auth.credentials import bearer_token
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.security.signing import sha256
from services.user_management.services.token_service import ServiceCredential

_KEY: Final = re.compile(r"ums_([0-9a-f]{12})_([0-9a-f]{64})")


def service_credential(request: Request) -> ServiceCredential:
    """The key as presented; the statement that uses it decides whether it is good. Raises UnauthenticatedError."""
    api_keys = request.headers.getlist("x-api-key")
    if len(api_keys) > 1 or (api_keys and "authorization" in request.headers):
        raise UnauthenticatedError("Send one credential.")
    key = _KEY.fullmatch(api_keys[0] if api_keys else bearer_token(request))
    if key is None:
        raise UnauthenticatedError("The credential is not a service key.")
    return ServiceCredential(key_id=key[1], secret_hash=sha256(key[2]))
