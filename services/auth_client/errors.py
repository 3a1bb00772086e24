"""Errors that say why there is no token, by what the caller can do about it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Problem:
    """Members of a problem document (RFC 9457) that a caller can use. Never holds a token or a key."""

    code: str
    """Stable code of the service, or one of this client's own: `service_unreachable`, `unexpected_answer`,
    `client_closed`."""
    detail: str
    status: int | None = None
    """Status of the HTTP answer; None if there was no answer."""
    request_id: str | None = None
    """Id of the request, to quote when asking the service's operators."""
    retry_after: int | None = None
    """Seconds to wait before the call is worth repeating; None if nobody knows."""
    reconnect_url: str | None = None
    reason: str | None = None
    missing_scopes: tuple[str, ...] = ()


class TokenError(Exception):
    """Error for a call that brought no token. `code` says exactly why; the subclass says what to do."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem as the one argument in `args`, so that the error survives pickling, as between Celery's
        processes."""
        super().__init__(problem)
        self.problem: Final = problem
        self.code: Final = problem.code
        self.status: Final = problem.status
        self.detail: Final = problem.detail
        self.request_id: Final = problem.request_id
        self.retry_after: Final = problem.retry_after

    def __str__(self) -> str:
        told = f"{self.code}: {self.detail}"
        return f"{told} (request {self.request_id})" if self.request_id else told


class ReconnectNeededError(TokenError):
    """Error that only the user can resolve: send them to `reconnect_url`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.reconnect_url: Final = problem.reconnect_url
        self.reason: Final = problem.reason
        """Code for why the integration stopped working, such as `grant_refused`."""
        self.missing_scopes: Final = problem.missing_scopes


class UserGoneError(TokenError):
    """Error for a user who does not exist or is suspended: stop working for them."""


class NotAllowedError(TokenError):
    """Error for a call that this service's key or grant does not cover: an operator must grant it, or a reason must
    be given."""


class TryLaterError(TokenError):
    """Error for a call that would work later; `retry_after` says when, if anybody knows. The client has already
    retried as far as its options allow."""


class MisconfiguredError(TokenError):
    """Error for a call, client or service that is set up wrongly: alert an operator, and do not repeat the call."""


SERVICE_UNREACHABLE: Final = "service_unreachable"
UNEXPECTED_ANSWER: Final = "unexpected_answer"
CLIENT_CLOSED: Final = "client_closed"

_BY_CODE: Final[dict[str, type[TokenError]]] = {
    **dict.fromkeys(("needs_reauth", "revoked", "not_connected", "insufficient_scope"), ReconnectNeededError),
    **dict.fromkeys(("user_not_found", "user_inactive"), UserGoneError),
    **dict.fromkeys(("unauthenticated", "grant_denied", "reason_required"), NotAllowedError),
    **dict.fromkeys(("provider_unavailable", "key_unavailable", "database_unavailable", "rate_limited"), TryLaterError),
    **dict.fromkeys((SERVICE_UNREACHABLE, CLIENT_CLOSED), TryLaterError),
    **dict.fromkeys(("provider_misconfigured", "unknown_provider", "validation_failed"), MisconfiguredError),
    UNEXPECTED_ANSWER: MisconfiguredError,
}


def error_of(problem: Problem) -> TokenError:
    """Return a new error for the problem each time, because callers that shared a request each add their own
    traceback."""
    return _class_of(problem)(problem)


def passes_by_itself(problem: Problem) -> bool:
    """Tell whether the same call may work later."""
    return _class_of(problem) is TryLaterError and problem.code != CLIENT_CLOSED


def _class_of(problem: Problem) -> type[TokenError]:
    """Return the error class for the problem's code; a code that is younger than this client is judged by its
    status."""
    status = problem.status or 0
    by_status: type[TokenError] = MisconfiguredError
    if status in {401, 403}:
        by_status = NotAllowedError
    elif status in {408, 429} or status >= 500:
        by_status = TryLaterError
    return _BY_CODE.get(problem.code, by_status)
