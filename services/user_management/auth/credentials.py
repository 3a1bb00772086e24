"""Reading the credential off a request, strictly."""

from fastapi import Request

from services.user_management.exceptions import UnauthenticatedError

MAX_CREDENTIAL_CHARACTERS = 8192


def bearer_token(request: Request) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750 section 2.1; the scheme in any case).

    Raises UnauthenticatedError when there is none, or anything but exactly one.
    """
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise UnauthenticatedError
    scheme, _, token = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_CREDENTIAL_CHARACTERS or not token.isascii():
        raise UnauthenticatedError
    return token
