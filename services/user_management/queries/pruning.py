"""The statement that removes rows which are no longer needed, in batches, so that each statement ends well within its
time limit."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection


async def delete_batch(
    connection: AsyncConnection, table: sa.Table, is_old: sa.ColumnElement[bool], *, limit: int
) -> int:
    """Delete up to `limit` rows that match `is_old` from a table that is not partitioned, and return how many. Rows
    that another transaction has locked are passed over."""
    # By ctid, the place of a row, since not every table has a key of one column.
    place: sa.ColumnClause[str] = sa.column("ctid")
    chosen = sa.select(place).select_from(table).where(is_old).limit(limit).with_for_update(skip_locked=True)
    places = sa.func.array(chosen.correlate(None).scalar_subquery())
    return int((await connection.execute(sa.delete(table).where(place == sa.any_(places)))).rowcount)
