"""Functions that turn rows of statements into typed values: untyped rows do not leave `queries/`."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import sqlalchemy as sa

Row = TypeVar("Row")
Parameters: TypeAlias = dict[str, Any]
"""Values of a statement, by the names of its columns or parameters."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def one_row(row_type: type[Row], result: sa.CursorResult[Any]) -> Row | None:
    """Return the only row as a `row_type`, whose fields are named as the columns are; None when there is no row."""
    row = result.mappings().one_or_none()
    return None if row is None else row_type(**row)


def all_rows(row_type: type[Row], result: sa.CursorResult[Any]) -> list[Row]:
    """Return all rows, in their order, as `row_type`s, whose fields are named as the columns are."""
    return [row_type(**row) for row in result.mappings()]


def columns_of(row: "DataclassInstance") -> Parameters:
    """Return the values of a typed row by column name, for an INSERT. The copy is shallow; `dataclasses.asdict` would
    copy JSON documents too."""
    return {field.name: getattr(row, field.name) for field in fields(row)}
