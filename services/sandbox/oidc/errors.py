"""OAuth errors (RFC 6749 section 5.2, RFC 6750 section 3): the exception by which a provider refuses a request, and two
common refusals."""

from typing import Any

NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Exception):
    """A refusal with the OAuth error code `error`, and the HTTP status and headers of its answer.

    `cause` distinguishes refusals to which the standard gives the same error code (an unknown authorization code, a
    wrong redirect URI), for providers that have an error code for each. `members` go into the body beside the standard
    ones.
    """

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: dict[str, str] | None = None,
        cause: str = "",
        members: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status
        self.headers = headers or {}
        self.cause = cause
        self.members = members or {}


def invalid_client(description: str) -> OAuthError:
    """Return the refusal invalid_client, with 401 and the challenge that RFC 6749 section 5.2 asks for."""
    challenge = {"WWW-Authenticate": 'Basic realm="sandbox", charset="UTF-8"'}
    return OAuthError("invalid_client", description, status=401, headers=challenge)


def invalid_access_token(description: str, *, cause: str) -> OAuthError:
    """Return the refusal invalid_token, with 401 and the challenge of RFC 6750 section 3.1."""
    challenge = {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{description}"'}
    return OAuthError("invalid_token", description, status=401, headers=challenge, cause=cause)
