"""Token exchange (RFC 8693): a token read in a form that standard OAuth clients can use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from services.user_management.exceptions import (
    ApplicationError,
    RateLimitedError,
    RetryLaterError,
    TokenExchangeError,
    UnauthenticatedError,
)
from services.user_management.schemas.token import TokenExchangeResponse, TokenRequest
from services.user_management.security.jwt import SessionVerifier
from services.user_management.services.service_credentials import ServiceCredential
from services.user_management.services.token_service.read import TokenService

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - RFC 8693 section 3
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
USER_ID: Final = "urn:user-management:token-type:user-id"
"""A type of our own: `subject_token` is a user id. We trust the calling service that it asks on behalf of that user, as
`POST /internal/tokens/get` does."""
_UNDERSTOOD: Final = {
    "grant_type",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "audience",
    "resource",
    "scope",
    "account",
    "reason",
    "min_ttl_seconds",
    "client_id",
    "client_secret",
}
_INTEGRAL: Final = re.compile(r"[0-9]{1,9}(\.0{1,9})?", re.ASCII)
"""An integer as a form may write it. 60.0 is one too, as in JSON Schema."""
_ERRORS: Final = {
    "grant_denied": "unauthorized_client",
    "reason_required": "invalid_request",
    "unknown_provider": "invalid_target",
    "insufficient_scope": "invalid_scope",
}
"""Our error codes, and OAuth's code for each. Every other error that `_translated` replaces is about the user, and
becomes `invalid_grant`."""


@dataclass(kw_only=True, eq=False)
class TokenExchange:
    """Translates a form of RFC 8693 into a token read, and the resulting token or error into what RFC 8693
    prescribes."""

    tokens: TokenService
    sessions: SessionVerifier

    async def exchange(self, credential: ServiceCredential, form: Mapping[str, str]) -> TokenExchangeResponse:
        """Return a provider's access token for the user of `subject_token`; `audience` (or `resource`) names the
        provider.

        Raises TokenExchangeError for a form that is not acceptable or a read that is refused, UnauthenticatedError if
        the service's key is not valid, RateLimitedError, and the errors with a status of 500 or more, such as
        RetryLaterError and ProviderMisconfiguredError."""
        request = await self._request(form)
        try:
            token = await self.tokens.get_valid_token(credential, request)
        except ApplicationError as error:
            raise _translated(error) from None
        return TokenExchangeResponse(
            access_token=token.access_token,
            issued_token_type=ACCESS_TOKEN,
            expires_in=token.expires_in,
            scope=" ".join(token.scopes) or None,
            account=token.account,
        )

    async def _request(self, form: Mapping[str, str]) -> TokenRequest:
        if form.get("grant_type") != GRANT_TYPE:
            raise TokenExchangeError("unsupported_grant_type", f"grant_type must be {GRANT_TYPE}.")
        if unknown := sorted(form.keys() - _UNDERSTOOD):
            # RFC 6749 lets servers ignore unknown parameters, but to ignore an `actor_token` would mislead the caller.
            raise TokenExchangeError("invalid_request", f"Not understood: {', '.join(unknown)}.")
        if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise TokenExchangeError("invalid_request", f"requested_token_type can only be {ACCESS_TOKEN}.")
        targets = {form[name] for name in ("audience", "resource") if name in form}
        if len(targets) != 1:
            raise TokenExchangeError("invalid_target", "audience (or resource) names one provider.")
        members = {
            "user_id": await self._user(form),
            "provider": targets.pop(),
            "scopes": form.get("scope", "").split(),
            "account": form.get("account"),
            "reason": form.get("reason"),
            "min_ttl_seconds": _seconds(form.get("min_ttl_seconds")),
        }
        try:
            return TokenRequest.model_validate(members)
        except ValidationError as error:
            fields = ", ".join(sorted({str(item["loc"][0]) for item in error.errors()}))
            raise TokenExchangeError("invalid_request", f"Not acceptable: {fields}.") from None

    async def _user(self, form: Mapping[str, str]) -> str:
        token, kind = form.get("subject_token", ""), form.get("subject_token_type")
        if kind == USER_ID:
            return token
        if kind != JWT:
            raise TokenExchangeError("invalid_request", f"subject_token_type must be {JWT} or {USER_ID}.")
        try:
            session = await self.sessions.verify(token)
        except RetryLaterError:
            raise
        except ApplicationError:
            raise TokenExchangeError("invalid_request", "subject_token is not a valid session token.") from None
        if session.impersonator is not None:
            raise TokenExchangeError("invalid_request", "subject_token is a session of somebody who acts as the user.")
        return session.subject


def _seconds(text: str | None) -> int | str | None:
    return int(float(text)) if text is not None and _INTEGRAL.fullmatch(text) else text


def _translated(error: ApplicationError) -> ApplicationError:
    if isinstance(error, UnauthenticatedError | RateLimitedError) or error.status >= 500:
        return error
    cause = {**error.extra, "cause": error.code}
    return TokenExchangeError(_ERRORS.get(error.code, "invalid_grant"), error.detail, extra=cause)
