"""The statement that lists the requests of services for a user's tokens, granted or refused."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.models import ServiceClient, TokenRead
from services.user_management.queries.rows import all_rows

_reads = TokenRead.ormar_config.table
_clients = ServiceClient.ormar_config.table


@dataclass(frozen=True, slots=True)
class ShownTokenRead:
    """A token read (one request of a service, granted or refused) as its user sees it."""

    id: UUID
    read_at: datetime
    service: str
    outcome: str
    scopes: list[str]
    reason: str | None
    integration_id: UUID | None


async def token_reads(
    connection: AsyncConnection, *, user_id: str, provider: str, before: UUID | None, limit: int
) -> list[ShownTokenRead]:
    """List the token reads of a user with `provider`, refused ones too, the newest first; with `before`, only those
    with a lower id. Ids are ordered by time."""
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
    return all_rows(ShownTokenRead, await connection.execute(select))
