"""Reads a provider's HTTP answer, and builds the error for one that is a refusal. No content of an answer makes this
module raise an exception, and JSON is read leniently, so that a malformed member does not cost us a rotated refresh
token."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.provider_config import ProviderConfig
from services.user_management.integrations.provider_errors import (
    HALF_DONE_CODES,
    RATE_LIMITED,
    ProviderCallError,
    error_code,
    is_error_code,
)
from services.user_management.utils.retry_after import read_http_date, read_retry_after
from services.user_management.utils.strict_json import storable

_MAX_DESCRIPTION_CHARACTERS: Final = 4096
_MAX_DETAILS: Final = 8
_MAX_CLOCK_ERROR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer. `received_at` is by our clock."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime

    def json(self) -> Any:
        """Return the JSON value in the body; None if the body is not JSON, such as a proxy's HTML page. Violations of
        strict JSON are accepted: they are no reason to lose a rotated refresh token."""
        try:
            return storable(json.loads(self.body))
        except (ValueError, RecursionError):
            return None

    def members(self) -> dict[str, Any]:
        """Return the JSON object in the body; an empty one if the body holds none."""
        document = self.json()
        return document if isinstance(document, dict) else {}

    @property
    def is_rate_limit(self) -> bool:
        """Tell whether the answer is a rate limit: 429 or, as GitHub sends it, 403 with `Retry-After` or with
        `X-RateLimit-Remaining: 0`."""
        return self.status == 429 or (self.status == 403 and ("retry-after" in self.headers or self._is_used_up))

    @property
    def is_later(self) -> bool:
        """Tell whether the provider cannot serve us now: the answer is a rate limit or a 5xx."""
        return self.is_rate_limit or self.status >= 500

    @property
    def said_at(self) -> datetime:
        """Return the time of the answer by the provider's clock (`Date`, RFC 9110 section 6.6.1), since the other times
        in the answer follow that clock too; by our clock if `Date` is missing or more than a day off."""
        said = read_http_date(self.headers.get("date", ""))
        return self.received_at if said is None or abs(said - self.received_at) > _MAX_CLOCK_ERROR else said

    def retry_after(self) -> float | None:
        """Return the seconds to wait: those of `Retry-After` or, when a quota is used up, those until
        `X-RateLimit-Reset` (GitHub, epoch seconds); None if the answer does not say."""
        wanted = read_retry_after(self.headers.get("retry-after", ""), self.said_at)
        if wanted is not None or not self._is_used_up:
            return wanted
        reset = self.headers.get("x-ratelimit-reset", "")
        seconds = float(reset) - self.said_at.timestamp() if re.fullmatch("[0-9]{1,10}", reset) else 0.0
        # A time in the past is a mistake or in another unit: no reason to ask again at once.
        return seconds if seconds > 0 else None

    @property
    def _is_used_up(self) -> bool:
        return self.headers.get("x-ratelimit-remaining") == "0"


def first_member(document: Mapping[str, Any], paths: Iterable[str]) -> Any:
    """Return the value at the first of the dotted `paths` that exists and is not null; None if there is none."""
    return next((value for path in paths if (value := _member(document, path)) is not None), None)


def is_refusal(document: Mapping[str, Any]) -> bool:
    """Tell whether the JSON object of an answer is an error. GitHub (`error`) and Slack (`ok: false`) send errors with
    status 200."""
    return document.get("ok") is False or isinstance(document.get("error"), str)


def refusal(config: ProviderConfig, answer: Answer) -> ProviderCallError:
    """Build the error for an answer that lacks what was asked for."""
    document = answer.members()
    code = document.get("error")
    if answer.is_later:
        unnamed = RATE_LIMITED if answer.status == 403 else f"http_{answer.status}"
        return ProviderCallError(
            ProviderErrorKind.TRANSIENT,
            error_code(code) if isinstance(code, str) else unnamed,
            # A gateway may answer 5xx after the provider has rotated the token; 429 is said before anything is done.
            outcome_unknown=answer.status >= 500,
            answered=True,
            retry_after=answer.retry_after(),
        )
    if not isinstance(code, str):
        # A success without a token, or an HTML page: neither should cost a user their integration.
        return ProviderCallError(
            ProviderErrorKind.TRANSIENT,
            f"unreadable_http_{answer.status}",
            outcome_unknown=answer.status == 200,
            answered=True,
            unusable=True,
        )
    details = list(_details(config, document))
    kind = config.error_kind(code, details) or ProviderErrorKind.UNKNOWN
    return ProviderCallError(
        kind,
        error_code(code),
        detail=details[0] if details else None,
        outcome_unknown=code in HALF_DONE_CODES,
        answered=True,
        retry_after=answer.retry_after(),
    )


def _details(config: ProviderConfig, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the detailed codes that an error answer has besides its error code: those of the members that the
    provider's file lists, in the order of the file, then the one that the file's pattern finds in the description."""
    rules = config.error_details
    for path, prefix in rules.members.items():
        value = _member(document, path)
        for item in (value if isinstance(value, list) else [value])[:_MAX_DETAILS]:
            if isinstance(item, str | int) and not isinstance(item, bool) and is_error_code(f"{prefix}{item}"):
                yield f"{prefix}{item}"
    description = document.get("error_description")
    if rules.description_pattern is not None and isinstance(description, str):
        found = re.search(rules.description_pattern, description[:_MAX_DESCRIPTION_CHARACTERS])
        if found and is_error_code(found[0]):
            yield found[0]


def _member(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
