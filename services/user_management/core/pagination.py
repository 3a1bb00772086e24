"""Pages of a list: keyset pagination with an opaque cursor."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


class Page(BaseModel, Generic[Item]):
    """`next_cursor` is null on the last page; otherwise send it back as `cursor`."""

    items: list[Item]
    next_cursor: str | None = None
