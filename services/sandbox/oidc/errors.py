"""OAuth errors as JSON (RFC 6749 section 5.2, RFC 6750 section 3)."""

from collections.abc import Callable

from fastapi.responses import JSONResponse, Response

from services.sandbox.intake import Handler
from services.sandbox.ledger import Entry

NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Exception):
    """A refusal with an OAuth error code; `status` 400 unless the code asks for another."""

    def __init__(
        self, error: str, description: str, *, status: int = 400, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """The error body."""
        body = {"error": self.error, "error_description": self.description}
        return JSONResponse(body, self.status, NOT_STORED | self.headers)


def invalid_client(description: str) -> OAuthError:
    """401 with the challenge that RFC 6749 section 5.2 asks for."""
    challenge = {"WWW-Authenticate": 'Basic realm="sandbox", charset="UTF-8"'}
    return OAuthError("invalid_client", description, status=401, headers=challenge)


def invalid_access_token(description: str) -> OAuthError:
    """401 with the challenge of RFC 6750 section 3.1."""
    challenge = {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{description}"'}
    return OAuthError("invalid_token", description, status=401, headers=challenge)


def oauth_handler(answer: Callable[[Entry], Response]) -> Handler:
    """A handler whose refusals become error bodies and are noted in the ledger."""

    def handler(entry: Entry) -> Response:
        try:
            return answer(entry)
        except OAuthError as refusal:
            entry.error, entry.note = refusal.error, refusal.description
            return refusal.response()

    return handler
