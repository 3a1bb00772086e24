"""Tests of reading `Retry-After`: both of its forms, and text that is neither."""

from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.user_management.utils.retry_after import read_retry_after

NOW: Final = datetime(2024, 1, 1, tzinfo=UTC)
WORDS: Final = ["Mon,", "01", "Jan", "2024", "00:00:00", "99:99", "GMT", "+9999", "-0000", "9" * 20, "9" * 5000, "\x00"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("Mon, 01 Jan 2024 00:01:00 GMT", 60),
        ("Mon, 01 Jan 2024 00:01:00 -0000", 60),
        ("Mon, 01 Jan 2024 01:01:00 +0100", 60),
        ("Sun, 31 Dec 2023 23:59:59 GMT", 0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 99999999999999999999:00:00 GMT", None),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("9" * 30, None),
        ("\u0667", None),
        ("soon", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_retry_after_of_any_text_is_never_an_error(text: str) -> None:
    seconds = read_retry_after(text, NOW)

    assert seconds is None or seconds >= 0
