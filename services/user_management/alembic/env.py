"""Alembic's environment, which Alembic imports to run a command: it runs the migrations as the database's owner, over
the same driver as the service.

Used by `cli db`, by Alembic's own command line, and by tests, which pass other URLs in `attributes`.
"""

import asyncio
import re
from typing import Any

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.user_management.database import role_of, sqlalchemy_url
from services.user_management.models import metadata
from services.user_management.settings import get_settings

LOCK_TIMEOUT = "2s"
"""How long a migration waits for a lock, so that it does not hold up the traffic behind it. A migration that waits
longer fails, and the operator runs it again."""


_PARTITION = re.compile(r"(audit_logs|audit_details|token_reads)_(p\d{6}|default)")


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Tell whether Alembic compares the object `name` with the models: anything but the partitions, which a function in
    the database makes."""
    return not (kind == "table" and name is not None and _PARTITION.fullmatch(name))


def run(connection: Connection, runtime_role: str) -> None:
    """Run the migrations, each in a transaction of its own. They grant their rights to `runtime_role`, the role under
    which the service runs."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        transaction_per_migration=True,
        compare_type=True,
        runtime_role=runtime_role,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    """Connect to the primary with DATABASE_MIGRATION_URL, that of the owner, or else with DATABASE_URL, and migrate."""
    settings = get_settings().database
    runtime_url = context.config.attributes.get("runtime_url") or settings.url.get_secret_value()
    owner = settings.migration_url or settings.url
    url = context.config.attributes.get("url") or owner.get_secret_value()
    primary = {"target_session_attrs": "primary"}
    engine = create_async_engine(sqlalchemy_url(url), poolclass=pool.NullPool, connect_args=primary)
    async with engine.connect() as connection:
        await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        await connection.execute(text("SET default_transaction_read_only = off"))
        await connection.commit()
        await connection.run_sync(run, role_of(runtime_url))
    await engine.dispose()


asyncio.run(run_online())
