"""Use of the key versions."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_USAGE = sa.text("""
SELECT k.version, k.state, (SELECT count(*) FROM encrypted_tokens t WHERE t.key_version = k.version) AS tokens
FROM encryption_keys k ORDER BY k.version
""")


async def usage(connection: AsyncConnection) -> list[tuple[int, str, int]]:
    """(version, state, tokens under it) of every key version."""
    return [(row.version, row.state, row.tokens) for row in await connection.execute(_USAGE)]
