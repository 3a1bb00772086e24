"""Rows of statements as typed values: the only way in which a row leaves `queries/`."""

from typing import Any, TypeVar

import sqlalchemy as sa

Row = TypeVar("Row")


def one_row(row_type: type[Row], result: sa.CursorResult[Any]) -> Row | None:
    """The only row, as a `row_type` whose fields are named as the columns are; None when there is no row."""
    row = result.mappings().one_or_none()
    return None if row is None else row_type(**row)


def all_rows(row_type: type[Row], result: sa.CursorResult[Any]) -> list[Row]:
    """All rows, in their order, as `row_type`s whose fields are named as the columns are."""
    return [row_type(**row) for row in result.mappings()]
