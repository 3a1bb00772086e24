"""What a provider's HTTP answer says: read leniently where it grants, and never with an exception of Python's own."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.provider_config import ProviderConfig
from services.user_management.integrations.provider_errors import ProviderCallError, error_code, is_error_code
from services.user_management.utils.strict_json import storable

_MAX_DESCRIPTION_CHARACTERS: Final = 4096
_MAX_DETAILS: Final = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime

    def json(self) -> Any:
        """The JSON in the body; None for anything else, such as a proxy's HTML page. A detail that strict JSON forbids
        is no reason to lose a rotated refresh token."""
        try:
            return storable(json.loads(self.body))
        except (ValueError, RecursionError):
            return None

    def members(self) -> dict[str, Any]:
        """The JSON object in the body; empty for anything else."""
        document = self.json()
        return document if isinstance(document, dict) else {}

    def retry_after(self) -> float | None:
        """Seconds, from either form of the header (RFC 9110 section 10.2.3)."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdecimal() and len(text) < 10:
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - self.received_at).total_seconds())


def first_member(document: Mapping[str, Any], paths: Iterable[str]) -> Any:
    """The value at the first of the dotted `paths` that is there and not null."""
    return next((value for path in paths if (value := _member(document, path)) is not None), None)


def is_refusal(document: Mapping[str, Any]) -> bool:
    """Whether an answer with status 200 is an error, as GitHub (`error`) and Slack (`ok: false`) send them."""
    return document.get("ok") is False or isinstance(document.get("error"), str)


def refusal(config: ProviderConfig, answer: Answer) -> ProviderCallError:
    """What an answer without the thing that was asked for means."""
    document = answer.members()
    code = document.get("error")
    if answer.status == 429 or answer.status >= 500:
        return ProviderCallError(
            ProviderErrorKind.TRANSIENT,
            error_code(code) if isinstance(code, str) else f"http_{answer.status}",
            # A gateway may answer 5xx after the provider has rotated the token; 429 is said before anything is done.
            outcome_unknown=answer.status >= 500,
            answered=True,
            retry_after=answer.retry_after(),
        )
    if not isinstance(code, str):
        # A success without a token, a page of HTML: nothing that should cost a user a connection.
        return ProviderCallError(
            ProviderErrorKind.TRANSIENT,
            f"unreadable_http_{answer.status}",
            outcome_unknown=answer.status == 200,
            answered=True,
        )
    details = list(_details(config, document))
    kind = config.error_kind(code, details) or ProviderErrorKind.UNKNOWN
    return ProviderCallError(
        kind,
        error_code(code),
        detail=details[0] if details else None,
        answered=True,
        retry_after=answer.retry_after(),
    )


def _details(config: ProviderConfig, document: Mapping[str, Any]) -> Iterator[str]:
    """The codes beneath the code, the most telling first."""
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
