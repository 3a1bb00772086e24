"""The database as this process sees it: ormar's connection for models and units of work, a driver pool for the
statements in the path of every request.

ormar wants a database object when a model class is created, long before settings are read; so there is one object
per process that is bound later. Constructing it connects to nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg
from ormar import DatabaseConnection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.exceptions import DatabaseUnavailableError
from services.user_management.settings import DatabaseGroup

UNAVAILABLE: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
"""What the driver raises when Postgres is away; each means "nothing happened or nothing is known", so 503."""
DatabaseError: Final = (SQLAlchemyError, *UNAVAILABLE)
"""Whatever can go wrong with a unit of work, from a Postgres that is away to a statement that it refuses."""
_UNAVAILABLE_SQLSTATES: Final = ("08", "53", "57P", "40P01", "40001")
"""Connection exceptions, insufficient resources (disk full included), operator intervention; and a transaction that was
given up for the sake of another one (deadlock, serialization failure), of which nothing happened."""

UNDEFINED_TABLE: Final = "42P01"
"""SQLSTATE of a missing table."""


class BoundLater(DatabaseConnection):
    """ormar's connection, given its URL after the models exist."""

    def __init__(self) -> None:
        super().__init__("postgresql+asyncpg://")

    def bind(self, url: str, **options: Any) -> None:
        """Set where `connect()` will connect to."""
        self._url = url
        self._options = options


ormar_database = BoundLater()


def sqlalchemy_url(url: str) -> str:
    """Any usual spelling of a Postgres URL, for SQLAlchemy's asyncpg dialect."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def driver_url(url: str) -> str:
    """The same for asyncpg itself."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def role_of(url: str) -> str:
    """The role that `url` logs in as."""
    return make_url(url).username or ""


DriverPool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


async def fetch_row(
    pool: DriverPool, statement: str, *arguments: Any, timeout_seconds: float
) -> "asyncpg.Record | None":
    """The first row of `statement`, on a connection that is waited for `timeout_seconds` at most.

    Raises TimeoutError. The pool's own timeout makes a task for each acquisition, and any timer costs more than to see
    that none is needed: together a tenth of the CPU of a request.
    """
    if pool.get_idle_size():
        connection = await pool.acquire()
    else:
        async with asyncio.timeout(timeout_seconds):
            connection = await pool.acquire()
    try:
        return await connection.fetchrow(statement, *arguments)
    finally:
        await pool.release(connection)


async def _keep_session(_connection: object) -> None:
    """The statement leaves nothing behind in a session, so the pool's reset round trip is spared."""


class Database:
    """Opens and closes both pools."""

    def __init__(self, settings: DatabaseGroup) -> None:
        self._settings = settings
        self._door: asyncpg.Pool[asyncpg.Record] | None = None
        self._probe: asyncpg.Connection[asyncpg.Record] | None = None
        self._probing = asyncio.Lock()

    async def connect(self) -> None:
        """Create the pools. Connections are opened when first used, so Postgres may still be away."""
        settings = self._settings
        url = settings.url.get_secret_value()
        ormar_database.bind(
            sqlalchemy_url(url),
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            pool_timeout=2,
            pool_pre_ping=True,
            # An error's text goes to the log; the values of its statement do not.
            hide_parameters=True,
            connect_args={
                "timeout": settings.timeout_seconds,
                "command_timeout": settings.timeout_seconds,
                "statement_cache_size": settings.statement_cache_size,
                # A stray write outside a unit of work fails here, in tests and in production alike.
                "server_settings": {"default_transaction_read_only": "on", "application_name": "user-management"},
            },
        )
        await ormar_database.connect()
        self._door = await asyncpg.create_pool(
            driver_url(url),
            min_size=0,
            max_size=settings.door_pool_size,
            timeout=settings.timeout_seconds,
            command_timeout=settings.timeout_seconds,
            statement_cache_size=settings.statement_cache_size,
            reset=_keep_session,
            server_settings={"application_name": "user-management-door"},
        )

    async def disconnect(self) -> None:
        """Close everything."""
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None
        if self._door is not None:
            await self._door.close()
            self._door = None
        await ormar_database.disconnect()

    @property
    def door(self) -> "asyncpg.Pool[asyncpg.Record]":
        """Driver connections, for the statements in the path of every request; that of `queries.token_read` writes."""
        if self._door is None:
            raise DatabaseUnavailableError
        return self._door

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A read-only connection for Core queries."""
        async with ormar_database.connection() as connection:
            yield connection

    async def ping(self, *, timeout_seconds: float) -> bool:
        """Whether Postgres answers within `timeout_seconds`.

        On a connection of its own: a process whose pools are busy is busy, not unready.
        """
        try:
            async with asyncio.timeout(timeout_seconds), self._probing:
                if self._probe is None or self._probe.is_closed():
                    self._probe = await asyncpg.connect(driver_url(self._settings.url.get_secret_value()))
                await self._probe.execute("SELECT 1")
        except (*UNAVAILABLE, asyncpg.PostgresError):
            if self._probe is not None:
                self._probe.terminate()
                self._probe = None
            return False
        return True


def is_unavailable(error: BaseException) -> bool:
    """Whether `error` means that Postgres is away or gave way to others, rather than that a statement is wrong."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = getattr(error, "orig", None) or error
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, SQLAlchemyError) and type(error).__name__ == "TimeoutError":
        return True
    return isinstance(cause, UNAVAILABLE) or sqlstate.startswith(_UNAVAILABLE_SQLSTATES)


def is_schema_missing(error: BaseException) -> bool:
    """Whether `error` means that nobody has migrated the database."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == UNDEFINED_TABLE


def constraint_name(error: BaseException) -> str | None:
    """Name of the constraint an IntegrityError is about."""
    cause = getattr(error, "orig", None)
    driver_error = getattr(cause, "__cause__", None) or cause
    name = getattr(driver_error, "constraint_name", None)
    return str(name) if name else None
