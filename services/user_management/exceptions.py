"""The catalogue of errors: all that a caller can see, and a few that are only stored or logged; and StartupError.

Each has a stable code, an HTTP status and a title. Services raise them; the HTTP layer renders them as RFC 9457 problem
details. The client learns what to do (`detail`), the log gets the cause.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, ClassVar, Final, TypeVar

MAX_LISTED_ERRORS: Final = 100
"""The most validation errors that an answer lists: a body of 64 KiB can have ten thousand, which would take 700 kB."""

Function = TypeVar("Function", bound=Callable[..., Any])

MALFORMED_IN_OAUTH: Final = frozenset({415, 422})
"""Statuses that are sent as 400 on routes that speak OAuth (RFC 6749 section 5.2)."""
CATALOGUE: dict[str, type["ApplicationError"]] = {}
"""The error classes by code. Defining a second one with the same code raises TypeError."""


class ApplicationError(Exception):
    """Base of the catalogue. `detail` says what to do; `extra` goes into the problem body, `headers` to the client."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = "Something went wrong on our side. The request id helps us to find it."

    def __init__(
        self,
        detail: str | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        super().__init__(self.detail)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.code in CATALOGUE:
            raise TypeError(f"two errors with the code {cls.code}")
        CATALOGUE[cls.code] = cls


CATALOGUE[ApplicationError.code] = ApplicationError


def raises(*errors: type[ApplicationError]) -> Callable[[Function], Function]:
    """Declare the errors with which a guard or an endpoint refuses; the OpenAPI document lists them per operation."""

    def declare(function: Function) -> Function:
        vars(function)["raises"] = errors
        return function

    return declare


class RetryLaterError(ApplicationError):
    """A refusal that goes away by itself: 503 with `Retry-After` (RFC 9110 section 10.2.3), in seconds, at least 1."""

    code = "unavailable"
    status = 503
    title = "Temporarily unavailable"
    default_detail = "The service cannot answer right now; try again shortly."

    def __init__(
        self, detail: str | None = None, *, retry_after: int = 1, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.retry_after = max(1, retry_after)
        super().__init__(detail, extra=extra, headers={"Retry-After": str(self.retry_after)})


class DatabaseUnavailableError(RetryLaterError):
    code = "database_unavailable"
    title = "Database unavailable"
    default_detail = "The database does not answer; try again shortly."


class KeySetUnavailableError(RetryLaterError):
    code = "key_set_unavailable"
    title = "Issuer keys unavailable"
    default_detail = "The session issuer's keys cannot be fetched right now."


class ProviderUnavailableError(RetryLaterError):
    code = "provider_unavailable"
    title = "Provider unavailable"
    default_detail = "The provider does not answer; the integration is kept, try again shortly."


class KeyUnavailableError(RetryLaterError):
    code = "key_unavailable"
    title = "Encryption key unavailable"
    default_detail = "This process does not hold a key it needs; the operator has been alerted."


class ProviderMisconfiguredError(ApplicationError):
    code = "provider_misconfigured"
    status = 502
    title = "Provider misconfigured"
    default_detail = "The provider refuses our client credentials; the operator has been alerted."


class ClerkRefusedError(ApplicationError):
    code = "clerk_refused"
    status = 502
    title = "Clerk refuses the service"
    default_detail = "Clerk's Backend API refuses us; check CLERK_SECRET_KEY and CLERK_API_URL."


class TokenExchangeError(ApplicationError):
    """A token exchange that is refused; `error` is a code of RFC 6749 section 5.2 or RFC 8693 section 2.2.2."""

    code = "token_exchange_refused"
    status = 400
    title = "Token exchange refused"
    default_detail = "This service does not answer this kind of RFC 8693 request."

    def __init__(self, error: str, detail: str | None = None, *, extra: Mapping[str, Any] | None = None) -> None:
        self.error = error
        super().__init__(detail, extra=extra)


class ProviderAnswerError(ApplicationError):
    code = "provider_answer_invalid"
    status = 502
    title = "Unusable answer from the provider"
    default_detail = "The provider's answer could not be used; connect the account again."


class BadRequestError(ApplicationError):
    code = "bad_request"
    status = 400
    title = "Malformed request"
    default_detail = "The request is not well-formed HTTP."


class InvalidJSONError(ApplicationError):
    code = "invalid_json"
    status = 400
    title = "Not valid JSON"
    default_detail = "The body is not one strict JSON document."


class InvalidWebhookHeadersError(ApplicationError):
    code = "invalid_webhook_headers"
    status = 400
    title = "Malformed webhook headers"
    default_detail = "svix-id, svix-timestamp and svix-signature are required, in the form Standard Webhooks gives."


class BodyTooLargeError(ApplicationError):
    code = "body_too_large"
    status = 413
    title = "Body too large"
    default_detail = "The body is larger than this route reads."

    def __init__(self, limit: int | None = None) -> None:
        """Name the limit in the detail, if it is given; `limit` is in bytes."""
        super().__init__(f"The body is larger than {limit >> 10} KiB." if limit else None)


class UriTooLongError(ApplicationError):
    code = "uri_too_long"
    status = 414
    title = "URL too long"
    default_detail = "The URL is longer than 8 KiB, or has more than 64 query parameters."


class HeadTooLargeError(ApplicationError):
    code = "head_too_large"
    status = 431
    title = "Request head too large"
    default_detail = "The request line and headers take more than 64 KiB, or there are more than 100 headers."


class UnsupportedMediaTypeError(ApplicationError):
    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"
    default_detail = "Send application/json."


class UnauthenticatedError(ApplicationError):
    code = "unauthenticated"
    status = 401
    title = "Not authenticated"
    default_detail = "A valid credential is required."

    def __init__(self, detail: str | None = None, *, counts: bool = True) -> None:
        """Make a refusal that counts against the rate limit of the caller's address. It does not if `counts` is False:
        where nothing was guessed, as a session token has run out, or session cookies are several users' or too many."""
        self.counts = counts
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="user-management"'})


class InvalidSignatureError(ApplicationError):
    code = "invalid_signature"
    status = 401
    title = "Signature refused"
    default_detail = "The webhook's signature or timestamp is not acceptable."


class ForbiddenError(ApplicationError):
    code = "forbidden"
    status = 403
    title = "Not allowed"
    default_detail = "This caller may not do that."


class SessionPendingError(ApplicationError):
    code = "session_pending"
    status = 403
    title = "Sign-in not finished"
    default_detail = "Finish signing in first: the session still has a task to complete."


class ImpersonationRefusedError(ApplicationError):
    code = "impersonation_refused"
    status = 403
    title = "Not while impersonating"
    default_detail = "Only the user in person may do that; this session is somebody else's, acting as them."


class CrossSiteRequestError(ApplicationError):
    code = "cross_site_request"
    status = 403
    title = "Cross-site request refused"
    default_detail = "A session cookie is accepted from our own pages only; elsewhere send the token as a bearer token."


class UserInactiveError(ApplicationError):
    code = "user_inactive"
    status = 403
    title = "User not active"
    default_detail = "The user is suspended or deactivated."


class GrantDeniedError(ApplicationError):
    code = "grant_denied"
    status = 403
    title = "Not granted to this service"
    default_detail = "This service has no grant for that. Where its grant is limited to scopes, name those you need."


class InsufficientScopeError(ApplicationError):
    code = "insufficient_scope"
    status = 403
    title = "Scopes missing"
    default_detail = "The user has not consented to every requested scope; send them to reconnect_url."


class NotFoundError(ApplicationError):
    code = "not_found"
    status = 404
    title = "Not found"
    default_detail = "There is nothing here."


class UserNotFoundError(ApplicationError):
    code = "user_not_found"
    status = 404
    title = "User not found"
    default_detail = "There is no such user."


class UnknownProviderError(ApplicationError):
    code = "unknown_provider"
    status = 404
    title = "Unknown provider"
    default_detail = "No provider of that name is configured."


class NotConnectedError(ApplicationError):
    code = "not_connected"
    status = 404
    title = "Not connected"
    default_detail = "The user has no such integration; send them to reconnect_url."


class FlowNotFoundError(ApplicationError):
    code = "flow_not_found"
    status = 404
    title = "Connect attempt not found"
    default_detail = "This connect attempt is unknown, expired or already used; start again."


class MethodNotAllowedError(ApplicationError):
    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"
    default_detail = "This path does not answer that method."


class NeedsReauthError(ApplicationError):
    code = "needs_reauth"
    status = 409
    title = "User must reconnect"
    default_detail = "The integration no longer works without its user; send them to reconnect_url."


class RevokedError(ApplicationError):
    code = "revoked"
    status = 409
    title = "Integration revoked"
    default_detail = "The user's consent was revoked; send them to reconnect_url."


class FlowRefusedError(ApplicationError):
    code = "flow_refused"
    status = 409
    title = "Consent not given"
    default_detail = "The provider did not give access; start connecting again."


class ConflictError(ApplicationError):
    code = "conflict"
    status = 409
    title = "Conflict"
    default_detail = "The request conflicts with what is already there."


class FieldOwnedUpstreamError(ApplicationError):
    code = "field_owned_upstream"
    status = 409
    title = "Owned by the identity provider"
    default_detail = "E-mail and phone are changed where the user signs in; details.errors names the fields."

    @classmethod
    def of_fields(cls, fields: Iterable[str]) -> "FieldOwnedUpstreamError":
        """Build the error, naming each of `fields`."""
        listed = [
            {"loc": ["body", field], "msg": "is changed at the identity provider", "type": cls.code} for field in fields
        ]
        return cls(extra={"details": {"errors": listed}})


class PreconditionFailedError(ApplicationError):
    code = "precondition_failed"
    status = 412
    title = "Changed in the meantime"
    default_detail = "The resource is not at the version of If-Match; fetch it again."


class ValidationFailedError(ApplicationError):
    code = "validation_failed"
    status = 422
    title = "Validation failed"
    default_detail = "Some fields are not acceptable; details.errors names them."

    @classmethod
    def of_fields(cls, errors: Iterable[Mapping[str, Any]]) -> "ValidationFailedError":
        """Build the error from pydantic's: where and what, never the value; the first MAX_LISTED_ERRORS at most."""
        listed = [
            {"loc": [str(part) for part in item["loc"]], "msg": str(item["msg"]), "type": str(item["type"])}
            for item in islice(errors, MAX_LISTED_ERRORS)
        ]
        return cls(extra={"details": {"errors": listed}})


class ReasonRequiredError(ApplicationError):
    code = "reason_required"
    status = 422
    title = "Reason required"
    default_detail = "This grant demands a reason with every read."


class RateLimitedError(ApplicationError):
    code = "rate_limited"
    status = 429
    title = "Too many requests"
    default_detail = "Slow down and try again after Retry-After seconds."

    def __init__(self, *, retry_after: int = 1, headers: Mapping[str, str] | None = None) -> None:
        self.retry_after = max(1, retry_after)
        super().__init__(headers={"Retry-After": str(self.retry_after), **(headers or {})})


class UnreadableEventError(ApplicationError):
    """An event of the identity provider that cannot be read. The error is stored with the event and never shown to a
    caller."""

    code = "unreadable_event"
    title = "Event not readable"


class PoisonedCiphertextError(ApplicationError):
    """A stored ciphertext that is damaged or forged: its authentication tag does not match, although the key is the
    right one, since it decrypts its canary (a known text that was encrypted under it). Never shown to a caller."""

    code = "poisoned_ciphertext"
    title = "Stored value unreadable"


class StartupError(Exception):
    """The process must not start; the message names the variable, file or row that is wrong."""
