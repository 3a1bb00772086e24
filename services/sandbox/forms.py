"""The fields of `application/x-www-form-urlencoded` bodies, read with the standard library, and those of queries."""

from collections.abc import Iterator
from urllib.parse import parse_qsl

from fastapi import Request

FORM_TYPE = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form or a query; a field may occur more than once."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get(self, name: str) -> str | None:
        """Return the first value that is not empty; `None` if there is none. An empty field counts as absent (RFC 6749
        section 3.1)."""
        return next((value for key, value in self._pairs if key == name and value), None)

    def all(self, name: str) -> list[str]:
        """Return every value of a field, including the empty ones."""
        return [value for key, value in self._pairs if key == name]

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    @property
    def repeated(self) -> list[str]:
        """Return the names that occur more than once, which OAuth forbids."""
        names = [name for name, _ in self._pairs]
        return sorted({name for name in names if names.count(name) > 1})


async def read_form(request: Request) -> Form:
    """Return the fields of the body; no fields if its content type is not that of a form."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM_TYPE:
        return Form([])
    body = (await request.body()).decode("utf-8", errors="replace")
    return Form(parse_qsl(body, keep_blank_values=True))


def read_query(request: Request) -> Form:
    """Return the fields of the query."""
    return Form(request.query_params.multi_items())
