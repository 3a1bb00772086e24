"""The guards of the token routes. They check the form of the service key and its rate limit. The SQL statement that
reads the token also checks whether the key is valid; on routes for larger bodies, `known_caller` checks that before the
body is read."""

from fastapi import Request

from services.user_management.auth.dependencies import get_container
from services.user_management.auth.rate_limits import spend_internal
from services.user_management.auth.service_auth import (
    DocumentedBearer,
    DocumentedHeader,
    refuse_guesses,
    service_credential,
)
from services.user_management.exceptions import DatabaseUnavailableError, RateLimitedError, UnauthenticatedError, raises
from services.user_management.services.service_credentials import ServiceCredential


@raises(UnauthenticatedError, RateLimitedError, DatabaseUnavailableError)
async def token_caller(request: Request, _bearer: DocumentedBearer = None, _header: DocumentedHeader = None) -> None:
    """Check the form of the service key, refuse guesses, and count one token read against the key's rate limit. Raises
    UnauthenticatedError, RateLimitedError, DatabaseUnavailableError."""
    credential = service_credential(request)
    await refuse_guesses(request, credential)
    count_read(request, credential)


async def known_caller(request: Request) -> None:
    """Refuse a key that is not valid; called on routes for larger bodies, before any of the body is read. Raises
    UnauthenticatedError, DatabaseUnavailableError."""
    await get_container(request).credentials.authentication.authenticate(service_credential(request))


def count_read(request: Request, credential: ServiceCredential, *, reads: int = 1) -> None:
    """Count `reads` token reads against the key's rate limit in this process. Raises RateLimitedError."""
    # The secret's hash is part of what is counted, so nobody can use up the allowance of a key by its id alone.
    for _ in range(reads):
        spend_internal(request, f"{credential.key_id}:{credential.secret_hash.hex()}")
