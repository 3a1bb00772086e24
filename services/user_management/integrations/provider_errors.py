"""The exception for a failed call to a provider, our own codes for failures, and functions that judge the codes of
providers."""

import re
from typing import Final

from services.user_management.enums import ProviderErrorKind

TOO_MANY_CALLS: Final = "too_many_calls"
"""Our own limit on the calls to one provider at once was reached; nothing was sent."""
BREAKER_OPEN: Final = "breaker_open"
"""The provider failed so often just now that we call it only later; nothing was sent."""
TOO_LATE: Final = "too_late"
"""When the call's turn came, its caller had too little time left for it; nothing was sent."""
UNSENDABLE_REQUEST: Final = "unsendable_request"
"""An endpoint's URL is malformed, or a header would hold text that is not ASCII; nothing was sent."""
NO_USERINFO_ENDPOINT: Final = "no_userinfo_endpoint"
"""The provider has no endpoint that tells whose account a token belongs to; nothing was sent."""
REVOCATION_IMPOSSIBLE: Final = "revocation_impossible"
"""The provider has no way to revoke a token; nothing was sent."""
RATE_LIMITED: Final = "rate_limited"
"""The provider limited our calls with a 403 that has no error code."""
RATE_LIMIT_CODES: Final = frozenset({RATE_LIMITED, "http_429", "ratelimited", "rate_limit_exceeded", "slow_down"})
"""All codes that mean a rate limit: the providers' and our own."""
HALF_DONE_CODES: Final = frozenset({"server_error", "internal_error", "internal_failure", "fatal_error"})
"""Codes of a provider that failed in the middle and may have carried the request out, whatever the HTTP status."""
_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class ProviderCallError(Exception):
    """Raised when a call to a provider fails.

    `kind` says who has to act. `code` is the provider's error code or our own name for the failure, `detail` a more
    detailed code of the provider. `outcome_unknown` means that the request may have been carried out although no usable
    answer came; `answered` that the provider sent a complete HTTP answer; `unusable` that what it sent is neither what
    was asked for nor a refusal, so that asking again does not help. `retry_after` is the wait, in seconds, before
    another call can help; None if unknown.
    """

    def __init__(
        self,
        kind: ProviderErrorKind,
        code: str,
        *,
        detail: str | None = None,
        outcome_unknown: bool = False,
        answered: bool = False,
        unusable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.kind = kind
        self.code = code
        self.detail = detail
        self.outcome_unknown = outcome_unknown
        self.answered = answered
        self.unusable = unusable
        self.retry_after = retry_after
        super().__init__(f"{kind}: {code}" + (f" ({detail})" if detail else ""))


def error_code(text: str) -> str:
    """Return a provider's error code in a form that may be stored and shown to users, in audit rows and in events:
    unchanged if it is a single word, otherwise `unknown_error`."""
    return text if is_error_code(text) else "unknown_error"


def is_error_code(text: str) -> bool:
    """Tell whether `text` is a single word of at most 64 characters, rather than a sentence, markup or somebody's
    data."""
    return _ERROR_CODE.fullmatch(text) is not None
