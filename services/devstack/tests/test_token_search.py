import base64
from collections.abc import Callable

import pytest

from services.devstack.token_search import Finding, Form, search

MARK = b"sbx-at-"
SIGNS = b"\xfb\xff\xbf\xfe\xff\xef\xfb"
"""A mark whose base64 is made of the two characters in which the alphabets differ."""


def _forms(content: bytes, mark: bytes = MARK) -> set[Form]:
    return {finding.form for finding in search({"dump": content}, [mark])}


def test_search_mark_as_text_is_found() -> None:
    found = search({"log": b"all is well", "dump": b"COPY\n1\tsbx-at-Zm9v\n"}, [MARK, b"sbx-rt-"])

    assert found == [Finding("dump", MARK, Form.TEXT)]


@pytest.mark.parametrize("written", [lambda hexed: hexed, str.upper], ids=["lower", "upper"])
def test_search_mark_as_hex_is_found(written: Callable[[str], str]) -> None:
    content = r"1	\x01" + written((MARK + b"Zm9v").hex()) + "\n"

    assert _forms(content.encode()) == {Form.HEX}


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("encode", [base64.standard_b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("mark", [MARK, SIGNS], ids=["letters", "signs"])
@pytest.mark.parametrize("neighbour", [b"\x00", b"\xff"])
@pytest.mark.parametrize("after", range(3))
def test_search_mark_as_base64_is_found_at_every_alignment(
    encode: Callable[[bytes], bytes], mark: bytes, neighbour: bytes, before: int, after: int
) -> None:
    content = b'"' + encode(neighbour * before + mark + neighbour * after) + b'"'

    assert _forms(content, mark) == {Form.BASE64}


def test_search_mark_in_two_forms_names_each_once() -> None:
    content = MARK * 3 + b" " + (MARK * 2).hex().encode()

    found = search({"dump": content}, [MARK])

    assert found == [Finding("dump", MARK, Form.TEXT), Finding("dump", MARK, Form.HEX)]


@pytest.mark.parametrize("content", [b"", b"sbx at", b"sbx-at", MARK.hex().encode()[:-1], bytes(range(256)) * 64])
def test_search_absent_mark_finds_nothing(content: bytes) -> None:
    assert search({"dump": content}, [MARK]) == []


def test_search_mark_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes"):
        search({"dump": b""}, [b"sbx-"])
