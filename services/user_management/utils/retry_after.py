"""Reads the header `Retry-After` (RFC 9110 section 10.2.3) and HTTP dates in answers to our calls."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def read_retry_after(text: str, now: datetime) -> float | None:
    """Return the seconds from `now` that `text` asks to wait, as a number or as a date (0 for a date that is past);
    None for any other text."""
    text = text.strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    moment = read_http_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def read_http_date(text: str) -> datetime | None:
    """Read an HTTP date (RFC 9110 section 5.6.7), or another date as in e-mail, as an aware datetime; None for any
    other text."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        # Overflow: a year or an hour of twenty digits.
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
