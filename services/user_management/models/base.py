"""What the tables share: metadata that names constraints, columns of Postgres's own types, and functions that make
indexes and constraints.

ormar's UUID is CHAR and its JSON is `json`; the subclasses here give native `uuid`, `jsonb`, `bytea` and byte-ordered
text. Foreign keys are constraints, not ormar relations: a relation would load rows that nobody asked for.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import ormar
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from services.user_management.database import ormar_database

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
_base_config = ormar.OrmarConfig(database=ormar_database, metadata=metadata)


def table(name: str, *constraints: sa.Constraint | sa.Index) -> ormar.OrmarConfig:
    """Return the ormar configuration of a model whose table is called `name` and has these constraints and indexes."""
    # Untyped, because ormar's hints allow neither indexes nor constraints of a single column.
    items: list[Any] = list(constraints)
    return _base_config.copy(tablename=name, constraints=items)


def index(name: str, *columns: str, where: str | None = None, unique: bool = False) -> sa.Index:
    """Return an index, which is partial when `where` is given."""
    return sa.Index(name, *columns, unique=unique, postgresql_where=sa.text(where) if where else None)


class PgUUID(ormar.UUID):  # type: ignore[misc, valid-type]  # ormar types its factories as functions
    """A column of the type `uuid`."""

    @classmethod
    def get_column_type(cls, **_kwargs: Any) -> Any:
        return sa.Uuid()


class JSONB(ormar.JSON):  # type: ignore[misc, valid-type]  # ormar types its factories as functions
    """A column of the type `jsonb`; a Python None is stored as SQL NULL."""

    @classmethod
    def get_column_type(cls, **_kwargs: Any) -> Any:
        return postgresql.JSONB(none_as_null=True)


class Bytes(ormar.LargeBinary):  # type: ignore[misc, valid-type]  # ormar types its factories as functions
    """A column of the type `bytea`."""

    @classmethod
    def get_column_type(cls, **_kwargs: Any) -> Any:
        return postgresql.BYTEA()


class Identifier(ormar.Text):  # type: ignore[misc, valid-type]  # ormar types its factories as functions
    """A column of the type `text COLLATE "C"`: compared and ordered byte by byte, whatever the cluster's locale."""

    @classmethod
    def get_column_type(cls, **_kwargs: Any) -> Any:
        return sa.Text(collation="C")


def foreign_key(column: str, target: str, *, ondelete: str = "CASCADE") -> sa.Constraint:
    """Return a foreign key of one column to `target`, written as `table.column`; by default, rows are deleted together
    with the row that they refer to."""
    return sa.ForeignKeyConstraint([column], [target], ondelete=ondelete)


def one_of(column: str, values: Iterable[StrEnum]) -> sa.Constraint:
    """Return a CHECK constraint: `column` holds one of `values`."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)
