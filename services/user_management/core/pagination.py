"""The form of one page of a list, with an opaque cursor that leads to the next page, and the limits of its size."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


class Page(BaseModel, Generic[Item]):
    """One page of a list. `next_cursor` is null on the last page; otherwise send it as `cursor` to get the next
    page."""

    items: list[Item]
    next_cursor: str | None = None
