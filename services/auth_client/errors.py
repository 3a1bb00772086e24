"""Errors that say why there is no token. Each class stands for one thing that the caller can do about it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason why there is no token: the parts of the service's problem document (RFC 9457) that a caller can use, or
    what this client itself found. A problem never holds a token or a key."""

    code: str
    """Stable code of the service, or one of this client's own: `service_unreachable`, `unexpected_answer`,
    `client_closed`."""
    detail: str
    status: int | None = None
    """Status of the HTTP answer; None if there was no answer."""
    request_id: str | None = None
    """Id of the request, to quote when asking the service's operators."""
    retry_after: int | None = None
    """Seconds to wait before the call is worth repeating; None if the answer does not say."""
    reconnect_url: str | None = None
    reason: str | None = None
    missing_scopes: tuple[str, ...] = ()


class TokenError(Exception):
    """Error for a call that yielded no token. `code` says exactly why; the subclass says what to do."""

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
    """Error that only the user can resolve: send them to `reconnect_url`, if the service gave one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.reconnect_url: Final = problem.reconnect_url
        self.reason: Final = problem.reason
        """Code for why the integration stopped working, such as `grant_refused`; None if the service gave none."""
        self.missing_scopes: Final = problem.missing_scopes


class UserGoneError(TokenError):
    """Error for a user who does not exist, was deleted, or is suspended or deactivated. The caller should stop acting
    on that user's behalf."""


class NotAllowedError(TokenError):
    """Error for a call that this service may not make: its key is refused, it has no grant for the provider or the
    scopes, or its grant demands a reason. An operator must issue a key or a grant, or the call must name its scopes or
    its reason."""


class TryLaterError(TokenError):
    """Error for a call that may work later: in `retry_after` seconds, if that is known. The client has already
    retried as far as its options allow, unless it was closed meanwhile (`client_closed`)."""


class MisconfiguredError(TokenError):
    """Error for a wrong setup of the call, this client or the service: alert an operator, and do not repeat the
    call."""


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
    """Return a new error for the problem. It is not shared, because callers that waited for the same request each add
    their own traceback."""
    return _class_of(problem)(problem)


def passes_by_itself(problem: Problem) -> bool:
    """Tell whether repeating the call may bring a token. True for every problem that becomes a TryLaterError, except
    that of a closed client."""
    return _class_of(problem) is TryLaterError and problem.code != CLIENT_CLOSED


def _class_of(problem: Problem) -> type[TokenError]:
    """Return the error class for the problem's code, or for its status if this client does not know the code."""
    status = problem.status or 0
    by_status: type[TokenError] = MisconfiguredError
    if status in {401, 403}:
        by_status = NotAllowedError
    elif status in {408, 429} or status >= 500:
        by_status = TryLaterError
    return _BY_CODE.get(problem.code, by_status)
