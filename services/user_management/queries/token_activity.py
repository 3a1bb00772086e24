"""Who read a user's tokens."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import ServiceClient, TokenRead

_reads = TokenRead.ormar_config.table
_clients = ServiceClient.ormar_config.table


async def token_reads(
    connection: AsyncConnection, *, user_id: str, provider: str, before: UUID | None, limit: int
) -> Sequence[sa.RowMapping]:
    """Reads of the user's tokens at `provider`, the newest first; ids are ordered by time."""
    select = (
        sa.select(
            _reads.c.id,
            _reads.c.read_at,
            _clients.c.name.label("service"),
            _reads.c.outcome,
            _reads.c.scopes,
            _reads.c.reason,
            _reads.c.integration_id,
        )
        .join(_clients, _clients.c.id == _reads.c.client_id)
        .where(_reads.c.user_id == user_id, _reads.c.provider == provider)
        .order_by(_reads.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        select = select.where(_reads.c.id < before)
    return (await connection.execute(select)).mappings().all()
